"""What every network shares: how it computes, and PyTorch's initial weights."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmia.models.conv import ensemble_conv
from jaxmia.models.norm import BatchNorm


@dataclass(frozen=True)
class Compute:
    """How a network computes; its weights are float32 whatever this says.

    Attributes:
        dtype: Type of activations and of the weights as they are read.
        conv: Stand-in for `lax.conv_general_dilated`.
    """

    dtype: jnp.dtype = field(default_factory=lambda: jnp.dtype(jnp.float32))
    conv: Callable[..., jax.Array] = field(default_factory=lambda: ensemble_conv("unrolled"))


_KAIMING_FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
_TORCH_LINEAR = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def conv(
    channels_in: int, channels_out: int, size: int, *, stride: int = 1, padding: int, compute: Compute, rngs: nnx.Rngs
) -> nnx.Conv:
    """A square convolution without bias, weights from He's normal distribution over the fan out."""
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
    """Batch normalisation in the network's compute type."""
    return BatchNorm(features, dtype=compute.dtype)


def linear(features_in: int, features_out: int, *, compute: Compute, rngs: nnx.Rngs) -> nnx.Linear:
    """A dense layer, weights and biases uniform within 1/sqrt(fan in) as PyTorch's are."""
    bound = features_in**-0.5

    def bias_init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(
        features_in, features_out, dtype=compute.dtype, kernel_init=_TORCH_LINEAR, bias_init=bias_init, rngs=rngs
    )


@jax.custom_vjp
def add_relu(left: jax.Array, right: jax.Array) -> jax.Array:
    """`relu(left + right)`, whose gradient looks at the result, which is kept for the next layer anyway.

    XLA would add once more, and read two arrays for one, to find out what had been positive.
    """
    return jax.nn.relu(left + right)


def _add_relu_saving(left: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    result = add_relu(left, right)
    return result, jax.lax.optimization_barrier(result)


def _add_relu_gradient(result: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    slope = jnp.where(result > 0, cotangent, 0)
    return slope, slope


add_relu.defvjp(_add_relu_saving, _add_relu_gradient)
