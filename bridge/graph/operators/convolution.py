"""Convolutions with one to three spatial axes, including transposed, grouped and dilated ones."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bridge.graph.tensor import Tensor, channels_last, common_dtype, stored
from jaxmia.models import Compute

_Conv = Callable[..., jax.Array]
_LANES = 16
"""Number of features that the CPU kernels compute at once."""


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
        output = _forward(
            compute.conv, inputs, weights, _each(strides, spatial), pads, _each(dilation, spatial), groups
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
    return _forward(conv, spread, weights, [1] * spatial, [(0, 0)] * spatial, dilation, groups)


def _forward(
    conv: _Conv,
    inputs: jax.Array,
    weights: jax.Array,
    strides: list[int],
    pads: list[tuple[int, int]],
    dilation: list[int],
    groups: int,
) -> jax.Array:
    """Convolves `[sample, ..., channel]` with `[..., channel / groups, feature]`."""
    depthwise = groups > 1 and weights.shape[-2] == 1 and groups == inputs.shape[-1] == weights.shape[-1]
    if depthwise:
        return _depthwise(inputs, weights, strides, pads, dilation)
    if len(strides) == 1:
        # As images of one row, since the fast convolutions have two spatial axes.
        output = _forward(conv, inputs[:, None], weights[None], [1, *strides], [(0, 0), *pads], [1, *dilation], groups)
        return output.squeeze(1)
    if len(strides) == 2:
        return _in_groups(conv, inputs, _spread(weights, dilation), strides, pads, groups)
    axes = "DHW"[-len(strides) :]
    layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return lax.conv_general_dilated(
        inputs,
        weights,
        strides,
        pads,
        rhs_dilation=dilation,
        dimension_numbers=layout,
        feature_group_count=groups,
    )


def _spread(weights: jax.Array, dilation: list[int]) -> jax.Array:
    """Inserts zeros between the taps of a kernel, which is then equivalent to the dilated one."""
    gaps = [(0, 0, gap - 1) for gap in dilation]
    return lax.pad(weights, jnp.zeros((), weights.dtype), [*gaps, (0, 0, 0), (0, 0, 0)])


def _in_groups(
    conv: _Conv,
    inputs: jax.Array,
    weights: jax.Array,
    strides: list[int],
    pads: list[tuple[int, int]],
    groups: int,
) -> jax.Array:
    """Convolves groups one after another, or several narrow ones at once by a block-diagonal kernel.

    A grouped convolution is slow in XLA on a CPU, above all under `vmap`.
    """
    if groups == 1:
        return conv(inputs, weights, strides, pads)
    *taps, channels, features = weights.shape
    features //= groups
    joined = max(n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * features <= _LANES))
    parts = weights.reshape(*taps, 1, channels, groups // joined, joined, features)
    diagonal = jnp.eye(joined, dtype=weights.dtype).reshape(1, 1, joined, 1, 1, joined, 1)
    kernels = jnp.moveaxis(parts * diagonal, 4, 0).reshape(-1, *taps, joined * channels, joined * features)
    pieces = jnp.split(inputs, len(kernels), -1)
    outputs = [conv(piece, kernel, strides, pads) for piece, kernel in zip(pieces, kernels, strict=True)]
    return jnp.concatenate(outputs, -1)


def _depthwise(
    inputs: jax.Array, weights: jax.Array, strides: list[int], pads: list[tuple[int, int]], dilation: list[int]
) -> jax.Array:
    """Convolves each channel with its own kernel, as a sum of shifted inputs, which stays element-wise under `vmap`."""
    *taps, _, channels = weights.shape
    padded = jnp.pad(inputs, [(0, 0), *pads, (0, 0)])
    lengths = [
        (size - gap * (tap - 1) - 1) // stride + 1
        for size, tap, stride, gap in zip(padded.shape[1:-1], taps, strides, dilation, strict=True)
    ]
    total: Any = 0
    for place in _places(taps):
        starts = [tap * gap for tap, gap in zip(place, dilation, strict=True)]
        window = tuple(
            slice(start, start + (length - 1) * stride + 1, stride)
            for start, length, stride in zip(starts, lengths, strides, strict=True)
        )
        total = total + padded[(slice(None), *window)] * weights[place].reshape([1] * (inputs.ndim - 1) + [channels])
    return total


def _places(taps: Sequence[int]) -> list[tuple[int, ...]]:
    places: list[tuple[int, ...]] = [()]
    for size in taps:
        places = [(*place, tap) for place in places for tap in range(size)]
    return places


def _each(values: Sequence[int], count: int) -> list[int]:
    """Expands numbers to one for each spatial axis, since PyTorch may give one for all."""
    return list(values) if len(values) == count else list(values) * count


COMPUTED: dict[str, Callable[..., Any]] = {"convolution": _convolution}
"""JAX functions by the names of PyTorch's operators; the first argument of each is a `Compute`."""
