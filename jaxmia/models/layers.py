"""Layers shared by all networks, with PyTorch's initialisation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmia.models.attention import Attention, attention
from jaxmia.models.conv import ensemble_conv
from jaxmia.models.dense import Dense, dense
from jaxmia.models.norm import BatchNorm, Normalise, batch_normalise


@dataclass(frozen=True)
class Compute:
    """Types and operators with which a network computes; its weights are always stored as float32.

    Attributes:
        dtype: Type of activations, to which weights are cast when they are used.
        conv: Replacement for `lax.conv_general_dilated`.
        normalise: Implementation of `batch_normalise`.
        dense: Implementation of `dense`.
        attention: Implementation of `attention`.
    """

    dtype: jnp.dtype = field(default_factory=lambda: jnp.dtype(jnp.float32))
    conv: Callable[..., jax.Array] = field(default_factory=lambda: ensemble_conv("unrolled"))
    normalise: Normalise = batch_normalise
    dense: Dense = dense
    attention: Attention = attention


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
    return BatchNorm(features, dtype=compute.dtype, normalise=compute.normalise)


class Linear(nnx.Linear):
    """A dense layer that may apply a ReLU too."""

    def __init__(self, features_in: int, features_out: int, *, dense: Dense, **options: Any) -> None:
        super().__init__(features_in, features_out, **options)
        self.dense = dense

    def __call__(self, inputs: jax.Array, *, relu: bool = False) -> jax.Array:
        """Outputs `[n, d]` of inputs `[n, c]` in the layer's type, with a ReLU if asked to."""
        bias = None if self.bias is None else self.bias[...]
        return self.dense(inputs.astype(self.dtype), self.kernel[...], bias, relu=relu)


def linear(features_in: int, features_out: int, *, bias: bool = True, compute: Compute, rngs: nnx.Rngs) -> Linear:
    """Creates a dense layer with weights and biases uniform within 1/sqrt(fan-in), as in PyTorch."""
    bound = features_in**-0.5

    def bias_init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return Linear(
        features_in,
        features_out,
        use_bias=bias,
        dtype=compute.dtype,
        kernel_init=_TORCH_LINEAR,
        bias_init=bias_init,
        dense=compute.dense,
        rngs=rngs,
    )
