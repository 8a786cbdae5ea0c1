import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmia.training.margin import logit_margin


def margin(logits, labels) -> np.ndarray:
    return np.asarray(logit_margin(jnp.asarray(logits, jnp.float32), jnp.asarray(labels)))


def exact(logits: np.ndarray, label: int) -> float:
    """The definition in float64, class by class."""
    others = [float(logit) for place, logit in enumerate(logits) if place != label]
    top = max(others)
    return float(logits[label]) - top - math.log(math.fsum(math.exp(other - top) for other in others))


@pytest.mark.parametrize("scale", [0.01, 1, 30, 1e4])
def test_it_is_the_definition(rng: np.random.Generator, scale: float):
    logits = (scale * rng.normal(size=(50, 9))).astype(np.float32)
    labels = rng.integers(0, 9, 50)
    expected = [exact(row, label) for row, label in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(margin(logits, labels), expected, rtol=1e-5, atol=1e-5 * min(scale, 1) + 1e-6)


def test_two_classes_leave_the_difference():
    np.testing.assert_array_equal(margin([[3.0, 1.0], [3.0, 1.0]], [0, 1]), [2, -2])


def test_it_is_log_odds_and_gives_log_p(rng: np.random.Generator):
    """phi = log(p / (1 - p)) and log p = -softplus(-phi), where 1 - p can still be computed."""
    logits = rng.normal(size=(40, 5))
    labels = rng.integers(0, 5, 40)
    p = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[np.arange(40), labels]
    phi = margin(logits, labels)
    np.testing.assert_allclose(phi, np.log(p / (1 - p)), atol=2e-6)
    np.testing.assert_allclose(-np.log1p(np.exp(-phi.astype(np.float64))), np.log(p), atol=2e-6)


def test_certainty_keeps_its_digits():
    """Where 1 - p is below the smallest float32, the margin still tells samples apart."""
    phi = margin([[1e4, 0, 0], [1.1e4, 0, 0], [-1e4, 0, 0], [200, 100, 0]], [0, 0, 0, 0])
    assert np.isfinite(phi).all()
    np.testing.assert_allclose(phi, [1e4 - math.log(2), 1.1e4 - math.log(2), -1e4 - math.log(2), 100], rtol=1e-6)


def test_a_common_shift_of_the_logits_changes_nothing(rng: np.random.Generator):
    logits, labels = rng.normal(size=(20, 4)), rng.integers(0, 4, 20)
    np.testing.assert_allclose(margin(logits + 64, labels), margin(logits, labels), atol=5e-5)


def test_leading_axes_are_kept(rng: np.random.Generator):
    logits, labels = rng.normal(size=(3, 2, 10, 4)), rng.integers(0, 4, 10)
    phi = margin(logits, labels)
    assert phi.dtype == np.float32
    for model in range(3):
        for view in range(2):
            np.testing.assert_allclose(phi[model, view], margin(logits[model, view], labels), rtol=1e-6)


def test_it_works_under_jit_and_vmap(rng: np.random.Generator):
    logits, labels = rng.normal(size=(3, 10, 4)).astype(np.float32), rng.integers(0, 4, 10)
    many = jax.jit(jax.vmap(logit_margin, (0, None)))(logits, labels)
    np.testing.assert_allclose(many, margin(logits, labels), rtol=1e-6, atol=1e-6)
