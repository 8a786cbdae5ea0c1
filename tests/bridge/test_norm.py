from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jaxmia.models.norm import BatchNorm

SHAPES = [(6, 5, 4, 3), (2, 1, 1, 3), (8, 3)]
"""`[sample, height, width, channel]`, few values a channel (where biased and unbiased differ most), no space."""


def replicas(shape: tuple[int, ...], dtype: str = "float32") -> tuple[BatchNorm, Any, np.ndarray]:
    """The same layer here and in PyTorch, with statistics and weights that are not the initial ones."""
    rng = np.random.default_rng(0)
    ours = BatchNorm(shape[-1], dtype=jnp.dtype(dtype))
    theirs = torch.nn.BatchNorm2d(shape[-1]) if len(shape) == 4 else torch.nn.BatchNorm1d(shape[-1])
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    with torch.no_grad():
        for name, replica in names.items():
            value = rng.uniform(0.5, 2, shape[-1]).astype(np.float32)
            getattr(ours, name)[...] = jnp.asarray(value)
            getattr(theirs, replica).copy_(torch.from_numpy(value))
    return ours, theirs, (3 + 2 * rng.normal(size=shape)).astype(np.float32)


def to_torch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1) if images.ndim == 4 else images))


def to_numpy(images: torch.Tensor) -> np.ndarray:
    return np.moveaxis(images.detach().numpy(), 1, -1)


@pytest.mark.parametrize("shape", SHAPES)
def test_training_normalises_and_moves_the_statistics_as_pytorch_does(shape: tuple[int, ...]):
    ours, theirs, images = replicas(shape)
    for _ in range(3):
        found, expected = ours(jnp.asarray(images), train=True), theirs(to_torch(images))
        np.testing.assert_allclose(found, to_numpy(expected), atol=2e-5)
        np.testing.assert_allclose(ours.mean[...], theirs.running_mean.numpy(), rtol=1e-5)
        np.testing.assert_allclose(ours.var[...], theirs.running_var.numpy(), rtol=1e-5)
        images = images * 0.7 + 1


@pytest.mark.parametrize("shape", SHAPES)
def test_eval_uses_the_running_statistics_and_leaves_them(shape: tuple[int, ...]):
    ours, theirs, images = replicas(shape)
    before = np.asarray(ours.mean[...]), np.asarray(ours.var[...])
    np.testing.assert_allclose(
        ours(jnp.asarray(images), train=False), to_numpy(theirs.eval()(to_torch(images))), atol=1e-5
    )
    np.testing.assert_array_equal(ours.mean[...], before[0])
    np.testing.assert_array_equal(ours.var[...], before[1])


@pytest.mark.parametrize("train", [True, False])
def test_gradients_are_pytorchs(train: bool):
    ours, theirs, images = replicas(SHAPES[0])
    weights = np.random.default_rng(1).normal(size=images.shape).astype(np.float32)
    graph, *parts = nnx.split(ours, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, parts)

    def total(params, images):
        return (nnx.merge(graph, params, stats)(images, train=train) * weights).sum()

    found, input_gradient = jax.grad(total, (0, 1))(params, jnp.asarray(images))
    replica: Any = to_torch(images).requires_grad_()
    (theirs.train(train)(replica) * to_torch(weights)).sum().backward()
    np.testing.assert_allclose(input_gradient, to_numpy(replica.grad), atol=2e-5)
    np.testing.assert_allclose(found["scale"], theirs.weight.grad.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["bias"], theirs.bias.grad.numpy(), rtol=1e-4, atol=1e-4)


def test_bfloat16_keeps_float32_statistics():
    """Statistics are those of the rounded values, taken in float32: bfloat16 sums would be off by percents."""
    ours, theirs, images = replicas((64, 8, 8, 3), "bfloat16")
    rounded = jnp.asarray(images, jnp.bfloat16)
    found = ours(rounded, train=True)
    expected = theirs(to_torch(np.array(rounded, np.float32)))
    assert found.dtype == jnp.bfloat16
    assert ours.mean[...].dtype == ours.var[...].dtype == jnp.float32
    np.testing.assert_allclose(ours.mean[...], theirs.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(ours.var[...], theirs.running_var.numpy(), rtol=1e-4)
    np.testing.assert_allclose(np.asarray(found, np.float32), to_numpy(expected), rtol=0.01, atol=0.02)


def test_a_large_mean_does_not_swallow_the_variance():
    """A variance of mean(x^2) - mean(x)^2 in float32, not taken from a value nearby, would be off by far more."""
    rng = np.random.default_rng(0)
    images = (1000 + rng.normal(size=(64, 8, 8, 2))).astype(np.float32)
    layer = BatchNorm(2, dtype=jnp.dtype("float32"))
    found = np.asarray(layer(jnp.asarray(images), train=True))
    exact = np.float64(images)
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_allclose(layer.var[...], 0.9 + 0.1 * exact.var((0, 1, 2), ddof=1), rtol=1e-4)


def test_a_channel_without_variance_stays_finite():
    """`maximum` in the variance must not turn rounding below zero into a gradient that is no number."""
    graph, *parts = nnx.split(BatchNorm(1, dtype=jnp.dtype("float32")), nnx.Param, nnx.BatchStat)
    state = [nnx.to_pure_dict(part) for part in parts]
    images = jnp.full((4, 2, 2, 1), 1234.567)
    output, pull = jax.vjp(lambda values: nnx.merge(graph, *state)(values, train=True), images)
    np.testing.assert_allclose(output, 0, atol=0.1)
    assert np.isfinite(pull(jnp.ones_like(output))[0]).all()
