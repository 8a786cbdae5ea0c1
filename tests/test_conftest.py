"""The tests' own settings hold."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.moments import moments
from tests import environment


@pytest.mark.usefixtures("strict_promotion")
def test_jax_promotes_no_type_and_no_rank_unasked():
    with pytest.raises(ValueError, match="no available implicit dtype promotion"):
        jnp.ones(2, jnp.float32) * jnp.ones(2, jnp.bfloat16)
    with pytest.raises(ValueError, match="numpy_rank_promotion"):
        jnp.ones((2, 2)) * jnp.ones(2)


def test_jax_keeps_compiled_programs_whether_or_not_there_are_several_workers():
    assert jax.config.jax_compilation_cache_dir == os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_commands_print_the_same_whatever_the_terminal():
    assert not os.environ.keys() & set(environment.OF_A_TERMINAL)


def test_new_kernels_stay_for_the_next_run_in_place_of_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept, cache = tmp_path / "kept", tmp_path / "cache"
    monkeypatch.setattr(environment, "KERNELS", kept)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for names in ([], ["kernels-1.so"], ["kernels-1.so", "kernels-2.so"], ["kernels-2.so"], []):
        (cache / "jaxmia").mkdir(parents=True)
        for name in [*names, "plan-1.json"]:
            (cache / "jaxmia" / name).write_text(name)
        environment.remove_cache()
        assert not cache.exists()
        expected = names[-1:] or [path.name for path in kept.glob("*")]
        assert [(path.name, path.read_text()) for path in kept.glob("*")] == [(name, name) for name in expected]


def test_arrays_are_held_against_their_annotations():
    shadows, mask = np.zeros((3, 2, 5)), np.zeros((3, 4), bool)
    with pytest.raises(jaxtyping.TypeCheckError, match="mask"):
        moments(shadows, mask)
    with pytest.raises(jaxtyping.TypeCheckError, match="labels"):
        Evidence(shadows[0], shadows, np.zeros((3, 5), bool), np.zeros(5))
