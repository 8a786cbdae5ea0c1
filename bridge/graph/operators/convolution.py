"""Convolutions with one to three spatial axes, including transposed, grouped and dilated ones."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bridge.graph.tensor import Tensor, channels_last, common_dtype, stored
from jaxmia.models import Compute

_Conv = Callable[..., jax.Array]


def _convolution(
    compute: Compute,
    value: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    order = channels_last(value.ndim)
    dtype = common_dtype((value.array, kernel.array))
    inputs, kernel = stored(value, order).astype(dtype), kernel._replace(array=kernel.array.astype(dtype))
    spatial = value.ndim - 2
    if transposed:
        output = _transposed(compute.conv, inputs, kernel, strides, padding, dilation, output_padding, groups)
    else:
        weights = stored(kernel, (*range(2, kernel.ndim), 1, 0))
        pads = [(pad, pad) for pad in _each(padding, spatial)]
        output = compute.conv(
            inputs,
            weights,
            _each(strides, spatial),
            pads,
            rhs_dilation=_each(dilation, spatial),
            feature_group_count=groups,
        )
    if bias is not None:
        output = output + bias.array.astype(dtype).reshape([1] * (spatial + 1) + [-1])
    return Tensor(output, order)


def _transposed(
    conv: _Conv,
    inputs: jax.Array,
    kernel: Tensor,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
) -> jax.Array:
    """The input gradient of a convolution: a convolution of inputs with zeros between them by the flipped kernel."""
    spatial = inputs.ndim - 2
    strides, dilation = _each(strides, spatial), _each(dilation, spatial)
    # PyTorch keeps [in, out / groups, ...]; lax wants [..., in / groups, out].
    weights = stored(kernel, (*range(2, kernel.ndim), 0, 1))
    *taps, channels, features = weights.shape
    weights = jnp.flip(weights, tuple(range(spatial))).reshape(*taps, groups, channels // groups, features)
    weights = jnp.moveaxis(weights, spatial, -2).reshape(*taps, channels // groups, groups * features)
    reach = [gap * (size - 1) for size, gap in zip(taps, dilation, strict=True)]
    pads = [
        (full - pad, full - pad + extra)
        for full, pad, extra in zip(reach, _each(padding, spatial), _each(output_padding, spatial), strict=True)
    ]
    spread = lax.pad(
        inputs,
        jnp.zeros((), inputs.dtype),
        [(0, 0, 0), *((low, high, stride - 1) for (low, high), stride in zip(pads, strides, strict=True)), (0, 0, 0)],
    )
    pads = [(0, 0)] * spatial
    return conv(spread, weights, [1] * spatial, pads, rhs_dilation=dilation, feature_group_count=groups)


def _each(values: Sequence[int], count: int) -> list[int]:
    """Expands numbers to one for each spatial axis, since PyTorch may give one for all."""
    return list(values) if len(values) == count else list(values) * count


COMPUTED: dict[str, Callable[..., Any]] = {"convolution": _convolution}
"""JAX functions by the names of PyTorch's operators; the first argument of each is a `Compute`."""
