"""Batch normalisation with PyTorch's semantics."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmia.config import Lowering
from jaxmia.models.native import norm as native
from jaxmia.models.native.over_models import over_models

Normalise = Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
"""`batch_normalise` or another implementation of it."""


@jax.custom_vjp
def add_relu(left: jax.Array, right: jax.Array) -> jax.Array:
    """Computes `relu(left + right)` with a gradient masked by the result, which is kept for the next layer anyway.

    XLA would instead recompute the sum in the backward pass, reading two arrays rather than one.
    """
    return jax.nn.relu(left + right)


def _add_relu_saving(left: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    result = add_relu(left, right)
    return result, jax.lax.optimization_barrier(result)


def _add_relu_gradient(result: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    slope = jnp.where(result > 0, cotangent, 0)
    return slope, slope


add_relu.defvjp(_add_relu_saving, _add_relu_gradient)


def batch_normalise(
    inputs: jax.Array,
    shortcut: jax.Array | None,
    scale: jax.Array,
    bias: jax.Array,
    *,
    relu: bool,
    epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises by the statistics of the batch, adds the shortcut if there is one, and applies a ReLU if `relu`.

    Returns:
        Outputs in the type of the inputs, and the batch's mean and biased variance, float32 `[channel]`. Gradients of
        the latter two are not defined.
    """
    mean, var = _moments(inputs.astype(jnp.float32), tuple(range(inputs.ndim - 1)))
    return _activated(affine(inputs, scale, bias, mean, var, epsilon), shortcut, relu), mean, var


def ensemble_norm(lowering: Lowering, threads: int = 1) -> Normalise:
    """Returns `batch_normalise`, computed by this package's C++ kernels for the lowering `native`.

    Args:
        lowering: As of `ensemble_conv`.
        threads: Most threads with which the kernels compute.
    """
    return functools.partial(_native_batch_normalise, threads) if lowering == "native" else batch_normalise


def _native_batch_normalise(
    threads: int,
    inputs: jax.Array,
    shortcut: jax.Array | None,
    scale: jax.Array,
    bias: jax.Array,
    *,
    relu: bool,
    epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _native(relu, shortcut is not None, epsilon, threads)(inputs, shortcut, scale, bias)


@functools.cache
def _native(relu: bool, adds: bool, epsilon: float, threads: int) -> Normalise:
    if adds and not relu:
        raise ValueError("Expected a ReLU after the sum with a shortcut.")
    activation = native.Activation.ADD_RELU if adds else native.Activation.RELU if relu else native.Activation.NONE
    how = {"activation": activation, "epsilon": epsilon, "threads": threads}
    forward = over_models(functools.partial(native.forward, **how))
    backward = over_models(functools.partial(native.backward, **how))

    @jax.custom_vjp
    def normalise(inputs: jax.Array, shortcut: jax.Array | None, scale: jax.Array, bias: jax.Array) -> Any:
        return forward(inputs, shortcut, scale, bias)

    def save(inputs: jax.Array, shortcut: jax.Array | None, scale: jax.Array, bias: jax.Array) -> Any:
        outputs, mean, var = forward(inputs, shortcut, scale, bias)
        # Without a shortcut the sign of the result is recomputed from the inputs.
        return (outputs, mean, var), (inputs, outputs if adds else inputs, scale, bias, mean, var)

    def pull(saved: tuple[jax.Array, ...], cotangents: tuple[jax.Array, ...]) -> Any:
        inputs, outputs, scale, bias, mean, var = saved
        return backward(inputs, outputs, cotangents[0], scale, bias, mean, var)

    normalise.defvjp(save, pull)
    return normalise


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, as `torch.nn.BatchNorm2d` computes it.

    In training it normalises by the batch's mean and biased variance, and moves the running statistics by `momentum`
    towards the batch's mean and *unbiased* variance; Flax's own module uses the biased one. Statistics are float32
    whatever the compute type.

    Args:
        features: Number of channels.
        momentum: Weight of the new batch in the running statistics (PyTorch's convention).
        epsilon: Added to the variance.
        dtype: Compute type of the output.
        normalise: How a batch is normalised in training.
    """

    def __init__(
        self,
        features: int,
        *,
        momentum: float = 0.1,
        epsilon: float = 1e-5,
        dtype: jnp.dtype,
        normalise: Normalise = batch_normalise,
    ) -> None:
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.momentum = momentum
        self.epsilon = epsilon
        self.dtype = dtype
        self.normalise = normalise

    def __call__(
        self, inputs: jax.Array, *, train: bool, relu: bool = False, shortcut: jax.Array | None = None
    ) -> jax.Array:
        """Normalises inputs `[..., channel]`; in training it also updates the running statistics.

        Args:
            inputs: Values to normalise.
            train: Whether the statistics are those of the batch.
            relu: Whether a ReLU follows.
            shortcut: Values to add before the ReLU.
        """
        scale, bias = self.scale[...], self.bias[...]
        if not train:
            outputs = affine(inputs, scale, bias, self.mean[...], self.var[...], self.epsilon)
            return _activated(outputs, shortcut, relu).astype(self.dtype)
        outputs, mean, var = self.normalise(inputs, shortcut, scale, bias, relu=relu, epsilon=self.epsilon)
        count = inputs.size // inputs.shape[-1]
        self._move(self.mean, mean)
        self._move(self.var, var * (count / max(count - 1, 1)))
        return outputs.astype(self.dtype)

    def _move(self, running: nnx.BatchStat, batch: jax.Array) -> None:
        running[...] = (1 - self.momentum) * running[...] + self.momentum * jax.lax.stop_gradient(batch)


def affine(
    inputs: jax.Array, scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array, epsilon: float
) -> jax.Array:
    """Normalises inputs `[..., channel]` by mean and variance, and scales and shifts them, all `[channel]`."""
    others = tuple(range(inputs.ndim - 1))
    gain = scale * jax.lax.rsqrt(var + epsilon)
    gain, offset = jnp.expand_dims(gain, others), jnp.expand_dims(bias - mean * gain, others)
    return (inputs.astype(jnp.float32) * gain + offset).astype(inputs.dtype)


def _activated(values: jax.Array, shortcut: jax.Array | None, relu: bool) -> jax.Array:
    if shortcut is None:
        return jax.nn.relu(values) if relu else values
    return add_relu(values, shortcut) if relu else values + shortcut


def _moments(values: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Computes mean and biased variance over `axes` in one pass over the values.

    The variance is mean(x^2) - mean(x)^2 of differences from the first value, so that it does not cancel when the mean
    is far from zero.
    """
    origin = jax.lax.stop_gradient(values[(0,) * len(axes)])
    distance = values - jnp.expand_dims(origin, axes)
    mean = distance.mean(axes)
    # Rounding can make the variance of a nearly constant channel negative.
    var = jnp.maximum(jnp.square(distance).mean(axes) - jnp.square(mean), 0)
    return mean + origin, var
