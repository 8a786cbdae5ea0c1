"""The examples in docstrings run and give what they say."""

import doctest
import inspect
import pkgutil
from importlib import import_module

import numpy as np
import pytest

import jaxmia
import jaxmia.attacks
import jaxmia.data
import jaxmia.evaluation
import jaxmia.leaderboard

MODULES = [
    "jaxmia.api",
    "jaxmia.config",
    "jaxmia.validation",
    *(
        f"{package.__name__}.{module.name}"
        for package in (jaxmia.attacks, jaxmia.data, jaxmia.evaluation, jaxmia.leaderboard)
        for module in pkgutil.iter_modules(package.__path__)
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    module = import_module(name)
    with np.printoptions(precision=3, suppress=True):
        failed, attempted = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert (failed, attempted) == (0, inspect.getsource(module).count(">>> "))


@pytest.mark.parametrize("name", ["EnsembleConfig", "Pool", "Recipe", "attack", "train_shadows"])
def test_what_is_public_has_an_example(name: str):
    assert ">>>" in getattr(jaxmia, name).__doc__
