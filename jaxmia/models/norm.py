"""Batch normalisation with PyTorch's semantics."""

import jax
import jax.numpy as jnp
from flax import nnx


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
    """

    def __init__(self, features: int, *, momentum: float = 0.1, epsilon: float = 1e-5, dtype: jnp.dtype) -> None:
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.momentum = momentum
        self.epsilon = epsilon
        self.dtype = dtype

    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        """Normalises inputs `[..., channel]`; in training it also updates the running statistics."""
        wide = inputs.astype(jnp.float32)
        if train:
            axes = tuple(range(inputs.ndim - 1))
            mean, var = _moments(wide, axes)
            count = inputs.size // inputs.shape[-1]
            self._move(self.mean, mean)
            self._move(self.var, var * (count / max(count - 1, 1)))
        else:
            mean, var = self.mean[...], self.var[...]
        gain = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        return (wide * gain + (self.bias[...] - mean * gain)).astype(self.dtype)

    def _move(self, running: nnx.BatchStat, batch: jax.Array) -> None:
        running[...] = (1 - self.momentum) * running[...] + self.momentum * jax.lax.stop_gradient(batch)


def _moments(values: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Computes mean and biased variance over `axes` in one pass over the values.

    The variance is mean(x^2) - mean(x)^2 of differences from the first value, so that it does not cancel when the mean
    is far from zero.
    """
    origin = jax.lax.stop_gradient(values[(0,) * len(axes)])
    distance = values - origin
    mean = distance.mean(axes)
    # Rounding can make the variance of a nearly constant channel negative.
    var = jnp.maximum(jnp.square(distance).mean(axes) - jnp.square(mean), 0)
    return mean + origin, var
