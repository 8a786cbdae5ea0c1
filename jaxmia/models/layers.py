"""Layers shared by all networks, with PyTorch's initialisation."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmia.models.conv import ensemble_conv
from jaxmia.models.norm import BatchNorm


@dataclass(frozen=True)
class Compute:
    """How a network computes; its weights are always stored as float32.

    Attributes:
        dtype: Type of activations, to which weights are cast when they are used.
        conv: Replacement for `lax.conv_general_dilated`.
    """

    dtype: jnp.dtype = field(default_factory=lambda: jnp.dtype(jnp.float32))
    conv: Callable[..., jax.Array] = field(default_factory=lambda: ensemble_conv("unrolled"))


_KAIMING_FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
_TORCH_LINEAR = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def conv(
    channels_in: int, channels_out: int, size: int, *, stride: int = 1, padding: int, compute: Compute, rngs: nnx.Rngs
) -> nnx.Conv:
    """Creates a square convolution without bias, initialised from He's normal distribution over the fan-out."""
    return nnx.Conv(
        channels_in,
        channels_out,
        (size, size),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        use_bias=False,
        dtype=compute.dtype,
        kernel_init=_KAIMING_FAN_OUT,
        conv_general_dilated=compute.conv,
        rngs=rngs,
    )


def batch_norm(features: int, *, compute: Compute) -> BatchNorm:
    """Creates a batch normalisation layer in the network's compute type."""
    return BatchNorm(features, dtype=compute.dtype)


def linear(features_in: int, features_out: int, *, compute: Compute, rngs: nnx.Rngs) -> nnx.Linear:
    """Creates a dense layer with weights and biases uniform within 1/sqrt(fan-in), as in PyTorch."""
    bound = features_in**-0.5

    def bias_init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(
        features_in, features_out, dtype=compute.dtype, kernel_init=_TORCH_LINEAR, bias_init=bias_init, rngs=rngs
    )


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
