"""Batch, layer, RMS and group normalisation, computed in float32 whatever the network's compute type."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bridge.graph.tensor import Tensor, channels_last, plain, stored, tensor
from jaxmia.models import Compute
from jaxmia.models.norm import affine


def _batch_norm_training(
    compute: Compute,
    value: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    momentum: float,
    epsilon: float,
    **activation: Any,
) -> list[Tensor | None]:
    """Normalises by the batch's statistics and updates the running ones, the variance with the unbiased variance."""
    if not training:
        return [*_batch_norm_trained(value, weight, bias, mean, var, momentum, epsilon), mean, var]
    output, batch_mean, batch_var = _by_batch(compute, value, weight, bias, epsilon, **activation)
    count = math.prod(value.shape) // value.shape[1]
    unbiased = batch_var * (count / max(count - 1, 1))
    moved = [
        tensor((1 - momentum) * running.array + momentum * jax.lax.stop_gradient(batch))
        for running, batch in ((mean, batch_mean), (var, unbiased))
    ]
    return [output, tensor(batch_mean), tensor(jax.lax.rsqrt(batch_var + epsilon)), *moved]


def _batch_norm_alone(
    compute: Compute,
    value: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    epsilon: float,
    **activation: Any,
) -> list[Tensor | None]:
    """Normalises by the batch's statistics, for layers without running ones."""
    return [_by_batch(compute, value, weight, bias, epsilon, **activation)[0], None, None]


def _batch_norm_trained(
    value: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    epsilon: float,
) -> list[Tensor | None]:
    """Normalises by the running statistics."""
    order = channels_last(value.ndim)
    scale, shift = _scale_and_shift(value, weight, bias)
    output = affine(stored(value, order), scale, shift, mean.array, var.array, epsilon)
    return [Tensor(output, order), None, None]


def _by_batch(
    compute: Compute,
    value: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    *,
    relu: bool = False,
    shortcut: Tensor | None = None,
) -> tuple[Tensor, jax.Array, jax.Array]:
    order = channels_last(value.ndim)
    scale, shift = _scale_and_shift(value, weight, bias)
    inputs = stored(value, order)
    added = None if shortcut is None else stored(shortcut, order).astype(inputs.dtype)
    output, mean, var = compute.normalise(inputs, added, scale, shift, relu=relu, epsilon=epsilon)
    return Tensor(output, order), mean, var


def _scale_and_shift(value: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[jax.Array, jax.Array]:
    channels = value.shape[1]
    return (
        jnp.ones(channels) if weight is None else weight.array.astype(jnp.float32),
        jnp.zeros(channels) if bias is None else bias.array.astype(jnp.float32),
    )


def _layer_norm(
    value: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> list[Tensor | None]:
    last = range(value.ndim - len(shape), value.ndim)
    normalised = _standardised(value.array, tuple(value.axis(axis) for axis in last), epsilon)
    return [_affine(Tensor(normalised, value.order), weight, bias, last, value.array.dtype), None, None]


def _rms_norm(
    value: Tensor, shape: Sequence[int], weight: Tensor | None, epsilon: float | None = None
) -> list[Tensor | None]:
    last = range(value.ndim - len(shape), value.ndim)
    wide = value.array.astype(jnp.float32)
    square = jnp.square(wide).mean(tuple(value.axis(axis) for axis in last), keepdims=True)
    floor = jnp.finfo(value.array.dtype).eps if epsilon is None else epsilon
    normalised = Tensor(wide * jax.lax.rsqrt(square + floor), value.order)
    return [_affine(normalised, weight, None, last, value.array.dtype), None]


def _group_norm(
    value: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    samples: int,
    channels: int,
    size: int,
    groups: int,
    epsilon: float,
) -> list[Tensor | None]:
    order = channels_last(value.ndim)
    inputs = stored(value, order)
    grouped = inputs.reshape(*inputs.shape[:-1], groups, channels // groups)
    axes = (*range(1, inputs.ndim - 1), grouped.ndim - 1)
    normalised = Tensor(_standardised(grouped, axes, epsilon).reshape(inputs.shape), order)
    return [_affine(normalised, weight, bias, (1,), inputs.dtype), None, None]


def _standardised(array: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """Standardises values to mean 0 and variance 1 over the axes, in float32."""
    wide = array.astype(jnp.float32)
    centred = wide - wide.mean(axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + epsilon)


def _affine(value: Tensor, weight: Tensor | None, bias: Tensor | None, axes: Sequence[int], dtype: jnp.dtype) -> Tensor:
    """Scales and shifts along the axes to which weight and bias belong."""

    def along(parameter: Tensor) -> jax.Array:
        shape = [value.shape[axis] if axis in axes else 1 for axis in range(value.ndim)]
        spread = tensor(plain(parameter).astype(jnp.float32).reshape(shape))
        return stored(spread, value.order)

    array = value.array if weight is None else value.array * along(weight)
    return Tensor((array if bias is None else array + along(bias)).astype(dtype), value.order)


OPERATORS: dict[str, Callable[..., Any]] = {
    "_fused_rms_norm": _rms_norm,
    "_native_batch_norm_legit_no_training": _batch_norm_trained,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
}
"""JAX functions by the names of PyTorch's operators."""

COMPUTED: dict[str, Callable[..., Any]] = {
    "_native_batch_norm_legit.no_stats": _batch_norm_alone,
    "_native_batch_norm_legit_functional": _batch_norm_training,
}
"""The same for functions whose first argument is a `Compute`."""
