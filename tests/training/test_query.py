import jax
import numpy as np
import pytest

from jaxmia.data.augment import apply_view
from jaxmia.data.pool import Pool
from jaxmia.data.views import View
from jaxmia.training.margin import logit_margin
from jaxmia.training.query import query, query_target
from tests.training.conftest import make_trainer

MODELS = [3, 1]
VIEWS = (View(), View("hflip"), View("identity", 1, -1))


@pytest.fixture
def asked(pool: Pool, ensemble_of):
    ensemble = ensemble_of(make_trainer())
    return ensemble, ensemble.init(MODELS)


def test_each_model_is_asked_about_each_sample_in_each_view(pool: Pool, asked):
    """Against one model, one view, one call."""
    ensemble, state = asked
    phi, correct = query(ensemble, state, VIEWS, 7)
    assert (phi.shape, phi.dtype) == ((2, 3, 40), np.float32)
    for position in range(2):
        own = jax.tree.map(lambda value, position=position: value[position], state)
        for place, view in enumerate(VIEWS):
            logits = ensemble.trainer.logits(own, apply_view(ensemble.images, view))
            np.testing.assert_allclose(phi[position, place], logit_margin(logits, ensemble.labels), atol=1e-4)
            if place == 0:
                np.testing.assert_array_equal(correct[position], np.argmax(logits, -1) == pool.labels)
    assert np.abs(phi[0] - phi[1]).max() > 0.1
    assert np.abs(phi[:, 0] - phi[:, 1]).max() > 1e-3


@pytest.mark.parametrize("batch_size", [13, 39, 41])
def test_the_batch_size_changes_nothing(asked, batch_size: int):
    """Also where the last batch is filled up: what fills it up leaks nothing."""
    ensemble, state = asked
    done: list[int] = []
    phi, correct = query(ensemble, state, VIEWS[:2], batch_size, done.append)
    expected, expected_correct = query(ensemble, state, VIEWS[:2], 7)
    np.testing.assert_allclose(phi, expected, atol=1e-5)
    np.testing.assert_array_equal(correct, expected_correct)
    assert sum(done) == 2 * 40


def test_a_step_is_told_when_those_before_it_are_done(asked, monkeypatch: pytest.MonkeyPatch):
    """On an accelerator a step that was only asked for costs no time."""
    ensemble, state = asked
    answer, waited = ensemble.margins, []

    class Answer:
        """Margins that know whether somebody waited for them."""

        def __init__(self, margins: jax.Array) -> None:
            self._margins = margins

        def __array__(self, dtype=None, copy=None) -> np.ndarray:
            return np.asarray(self._margins)

        def block_until_ready(self) -> None:
            waited.append(self)

    def margins(*asked):
        margin, correct = answer(*asked)
        return Answer(margin), correct

    monkeypatch.setattr(ensemble, "margins", margins)
    told: list[int] = []
    query(ensemble, state, VIEWS[:2], 10, lambda images: told.append(len(waited)))
    assert told == list(range(8))


def test_a_target_is_asked_as_the_shadows_are(pool: Pool, asked):
    ensemble, state = asked
    own = jax.tree.map(lambda value: value[0], state)

    def logits_of(images: np.ndarray) -> np.ndarray:
        return np.asarray(ensemble.trainer.logits(own, images))

    assert pool.images is not None
    phi, correct = query_target(logits_of, pool.images, pool.labels, VIEWS, 16)
    expected, expected_correct = query(ensemble, state, VIEWS, 16)
    np.testing.assert_allclose(phi, expected[0], atol=1e-4)
    np.testing.assert_array_equal(correct, expected_correct[0])
