"""The examples in docstrings run and give what they say."""

import doctest
import pkgutil
from importlib import import_module

import numpy as np
import pytest

import jaxmia.attacks
import jaxmia.evaluation

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (jaxmia.attacks, jaxmia.evaluation)
    for module in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str):
    with np.printoptions(precision=3, suppress=True):
        assert doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS).failed == 0
