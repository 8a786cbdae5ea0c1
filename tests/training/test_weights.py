import re
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxmia.data.pool import Pool
from jaxmia.data.views import View
from jaxmia.errors import InputError
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.trainer import State
from jaxmia.training.weights import Weights, state_of
from tests.training.conftest import make_trainer

MODELS = [0, 3, 5]


@pytest.fixture
def trained(train: Callable[..., State]) -> State:
    """Three models after a few steps, with batch statistics and averaged weights."""
    return train(make_trainer(ema=0.9), MODELS)


@pytest.fixture
def ensemble(ensemble_of: Callable[..., Ensemble]) -> Ensemble:
    return ensemble_of(make_trainer(ema=0.9))


def margins(ensemble: Ensemble, state: State, pool: Pool) -> np.ndarray:
    return np.asarray(ensemble.margins(state, np.arange(len(pool)), View())[0])


def test_kept_models_answer_as_they_did(trained: State, ensemble: Ensemble, pool: Pool, tmp_path: Path):
    before = margins(ensemble, trained, pool)
    assert not np.allclose(before, margins(ensemble, ensemble.init(MODELS), pool), atol=0.01)
    kept = Weights(tmp_path).write(MODELS, trained)
    state = state_of(Weights(tmp_path).read(MODELS, kept), MODELS, MODELS, ensemble.init, "x")
    np.testing.assert_array_equal(margins(ensemble, state, pool), before)


def test_models_are_picked_and_repeated_as_the_devices_want(
    trained: State, ensemble: Ensemble, pool: Pool, tmp_path: Path
):
    weights = Weights(tmp_path)
    arrays = weights.read(MODELS, weights.write(MODELS, trained))
    state = state_of(arrays, MODELS, [5, 0, 0], ensemble.init, "x")
    np.testing.assert_allclose(
        margins(ensemble, state, pool), margins(ensemble, trained, pool)[[2, 0, 0]], atol=1e-5, rtol=0
    )


def test_of_models_that_fill_the_devices_only_the_first_are_kept(trained: State, tmp_path: Path):
    weights = Weights(tmp_path)
    arrays = weights.read(MODELS[:2], weights.write(MODELS[:2], trained))
    assert {array.shape[0] for array in arrays.values()} == {2}


def test_the_optimizer_is_not_kept(trained: State, tmp_path: Path):
    weights = Weights(tmp_path)
    names = weights.read(MODELS, weights.write(MODELS, trained)).keys()
    assert {name.partition("/")[0] for name in names} == {"params", "stats", "average"}


def test_the_digest_tells_every_bit(trained: State, tmp_path: Path):
    weights = Weights(tmp_path)
    kept = weights.write(MODELS, trained)
    assert weights.write(MODELS, trained) == kept
    changed = jax.tree.map(np.array, trained)
    leaf = jax.tree.leaves(changed["stats"])[0]
    leaf.reshape(-1)[0] = np.nextafter(leaf.reshape(-1)[0], np.float32(9))
    assert weights.write(MODELS, changed) != kept
    with pytest.raises(InputError, match=re.escape("00000-00005.npz: contains other weights than those whose margins")):
        weights.read(MODELS, kept)


def test_what_does_not_fit_is_refused_by_name(trained: State, ensemble_of: Callable[..., Ensemble], tmp_path: Path):
    weights = Weights(tmp_path)
    kept = weights.write(MODELS, trained)
    with pytest.raises(InputError, match=r"00000-00005\.npz: contains models \[0, 3, 5\], expected \[0, 4, 5\]"):
        weights.read([0, 4, 5], kept)
    with pytest.raises(InputError, match=r"00000-00001\.npz: no such file"):
        weights.read([0, 1], kept)
    arrays = weights.read(MODELS, kept)
    wider, plain = ensemble_of(make_trainer(ema=0.9, width=4)), ensemble_of(make_trainer())
    with pytest.raises(
        InputError, match=r"there: does not match this program: .*kernel is float32 \[3, .* there and float32"
    ):
        state_of(arrays, MODELS, MODELS, wider.init, "there")
    with pytest.raises(
        InputError, match=r"there: does not match this program: average/\S+ is float32 .* there and missing"
    ):
        state_of(arrays, MODELS, MODELS, plain.init, "there")
