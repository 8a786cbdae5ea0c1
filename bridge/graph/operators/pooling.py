"""Pooling and resizing of the spatial axes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bridge.graph.tensor import Tensor, channels_last, stored

_Sizes = int | Sequence[int] | None


def _max_pool(
    value: Tensor,
    window: _Sizes,
    strides: _Sizes = None,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    ceil_mode: bool = False,
) -> list[Tensor | None]:
    """Maxima of windows. Their indices, which only unpooling would need, are not computed."""
    spatial = value.ndim - 2
    window, dilation = _each(window, spatial), _each(dilation, spatial)
    strides = _each(strides or window, spatial)
    inputs, order = _images(value)
    pads = _pads(inputs.shape[1:-1], window, strides, _each(padding, spatial), dilation, ceil_mode)
    if (
        window == strides
        and not any(map(any, pads))
        and set(dilation) == {1}
        and not any(size % span for size, span in zip(inputs.shape[1:-1], window, strict=True))
    ):
        return [Tensor(_maxima(inputs, window), order), None]
    low = -jnp.inf if jnp.issubdtype(inputs.dtype, jnp.floating) else jnp.iinfo(inputs.dtype).min
    output = lax.reduce_window(
        inputs,
        np.array(low, inputs.dtype),
        lax.max,
        (1, *window, 1),
        (1, *strides, 1),
        ((0, 0), *pads, (0, 0)),
        window_dilation=(1, *dilation, 1),
    )
    return [Tensor(output, order), None]


def _maxima(inputs: jax.Array, window: Sequence[int]) -> jax.Array:
    """Maxima of windows that tile the spatial axes.

    Selecting one number of a window after another gives the gradient to the first maximum, as in PyTorch, without the
    indices by which XLA scatters it slowly.
    """
    sizes = [part for size, span in zip(inputs.shape[1:-1], window, strict=True) for part in (size // span, span)]
    tiles = inputs.reshape(len(inputs), *sizes, inputs.shape[-1])
    first, *others = (
        tiles[(slice(None), *(part for place in places for part in (slice(None), place)))]
        for places in np.ndindex(*window)
    )
    for other in others:
        first = jnp.where((other > first) | (other != other), other, first)
    return first


def _avg_pool(
    value: Tensor,
    window: _Sizes,
    strides: _Sizes = None,
    padding: _Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    spatial = value.ndim - 2
    window = _each(window, spatial)
    strides, padding = _each(strides or window, spatial), _each(padding, spatial)
    inputs, order = _images(value)
    sizes = inputs.shape[1:-1]
    pads = _pads(sizes, window, strides, padding, [1] * spatial, ceil_mode)
    total = _window_sums(inputs, window, strides, pads)
    if divisor_override:
        return Tensor(total / divisor_override, order)
    # Counted padding ends where PyTorch's own ends; what ceil_mode adds after it never counts.
    margin = padding if count_include_pad else [0] * spatial
    counted = np.pad(np.ones(sizes, np.float32), [(pad, pad) for pad in margin], constant_values=1)
    outer = [(low - pad, high - pad) for (low, high), pad in zip(pads, margin, strict=True)]
    cells = np.pad(counted, [(max(low, 0), max(high, 0)) for low, high in outer])
    count = _window_sums(jnp.asarray(cells)[None, ..., None], window, strides, [(0, 0)] * spatial)
    return Tensor(total / count.astype(total.dtype), order)


def _window_sums(
    inputs: jax.Array, window: Sequence[int], strides: Sequence[int], pads: Sequence[tuple[int, int]]
) -> jax.Array:
    return lax.reduce_window(
        inputs, np.array(0, inputs.dtype), lax.add, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
    )


def _pads(
    sizes: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> list[tuple[int, int]]:
    """Padding of each spatial axis, with what `ceil_mode` adds at the end."""
    pads = []
    for size, span, stride, pad, gap in zip(sizes, window, strides, padding, dilation, strict=True):
        reach = gap * (span - 1) + 1
        room = size + 2 * pad - reach
        count = -(-room // stride) + 1 if ceil_mode else room // stride + 1
        # A window must start within the input or the padding before it.
        if (count - 1) * stride >= size + pad:
            count -= 1
        pads.append((pad, max(pad, (count - 1) * stride + reach - size - pad)))
    return pads


def _adaptive_avg(value: Tensor, sizes: _Sizes) -> Tensor:
    """Means of the requested number of windows, which divide the axis as evenly as possible."""
    inputs, order = _images(value)
    spatial = value.ndim - 2
    asked = [size or own for size, own in zip(_each(sizes, spatial), inputs.shape[1:-1], strict=True)]
    if set(asked) == {1}:
        return Tensor(inputs.mean(tuple(range(1, inputs.ndim - 1)), keepdims=True), order)
    return Tensor(_separably(inputs, [_shares(own, new) for own, new in _pairs(inputs, asked)]), order)


def _adaptive_max(value: Tensor, sizes: _Sizes) -> list[Tensor | None]:
    inputs, order = _images(value)
    for axis, size in enumerate(_each(sizes, value.ndim - 2), start=1):
        windows = _windows(inputs.shape[axis], size or inputs.shape[axis])
        parts = [lax.slice_in_dim(inputs, low, high, axis=axis).max(axis, keepdims=True) for low, high in windows]
        inputs = jnp.concatenate(parts, axis)
    return [Tensor(inputs, order), None]


def _windows(size: int, count: int) -> list[tuple[int, int]]:
    return [(number * size // count, -(-(number + 1) * size // count)) for number in range(count)]


def _shares(size: int, count: int) -> np.ndarray:
    """Weights `[count, size]` of adaptive average pooling."""
    weights = np.zeros((count, size), np.float32)
    for row, (low, high) in zip(weights, _windows(size, count), strict=True):
        row[low:high] = 1 / (high - low)
    return weights


def _resize(kind: str) -> Callable[..., Tensor]:
    """Interpolation along each spatial axis; `kind` is `nearest`, `nearest-exact`, `linear` or `cubic`."""

    def resize(value: Tensor, sizes: Sequence[int] | None, *rest: Any) -> Tensor:
        align_corners = bool(rest[0]) if kind in ("linear", "cubic") else False
        scales = next((part for part in reversed(rest) if isinstance(part, list | tuple)), None)
        inputs, order = _images(value)
        spatial = inputs.shape[1:-1]
        asked = list(sizes) if sizes else [int(own * scale) for own, scale in zip(spatial, scales or [], strict=True)]
        known = [1 / scale for scale in scales] if scales else [own / new for own, new in _pairs(inputs, asked)]
        matrices = [
            _interpolation(kind, own, new, ratio, align_corners)
            for (own, new), ratio in zip(_pairs(inputs, asked), known, strict=True)
        ]
        return Tensor(_separably(inputs, matrices), order)

    return resize


def _interpolation(kind: str, size: int, count: int, ratio: float, align_corners: bool) -> np.ndarray:
    """Weights `[count, size]` of interpolation along an axis.

    Args:
        kind: As in `_resize`.
        size: Length of the axis before.
        count: Length of the axis after.
        ratio: Distance between two points after, in points before.
        align_corners: Whether the first and last points before and after coincide.
    """
    place = np.arange(count)
    if kind.startswith("nearest"):
        source = np.floor((place + 0.5 * (kind == "nearest-exact")) * ratio).clip(0, size - 1).astype(int)
        return np.eye(size, dtype=np.float32)[source]
    if align_corners:
        position = place * ((size - 1) / (count - 1) if count > 1 else 0.0)
    else:
        position = (place + 0.5) * ratio - 0.5
    if kind == "linear":
        position = position.clip(0)
    base = np.floor(position).astype(int)
    share = position - base
    if kind == "linear":
        taps = {0: 1 - share, 1: share}
    else:
        near, far = _cubic_near, _cubic_far
        taps = {-1: far(share + 1), 0: near(share), 1: near(1 - share), 2: far(2 - share)}
    weights = np.zeros((count, size))
    for shift, weight in taps.items():
        np.add.at(weights, (place, (base + shift).clip(0, size - 1)), weight)
    return weights.astype(np.float32)


def _cubic_near(distance: np.ndarray, sharpness: float = -0.75) -> np.ndarray:
    return ((sharpness + 2) * distance - (sharpness + 3)) * distance**2 + 1


def _cubic_far(distance: np.ndarray, sharpness: float = -0.75) -> np.ndarray:
    return ((sharpness * distance - 5 * sharpness) * distance + 8 * sharpness) * distance - 4 * sharpness


def _separably(inputs: jax.Array, matrices: Sequence[np.ndarray]) -> jax.Array:
    """Applies a matrix `[new, old]` along each spatial axis of `[sample, ..., channel]`."""
    for axis, matrix in enumerate(matrices, start=1):
        moved = jnp.tensordot(jnp.asarray(matrix, inputs.dtype), inputs, ((1,), (axis,)))
        inputs = jnp.moveaxis(moved, 0, axis)
    return inputs


def _pairs(inputs: jax.Array, asked: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(inputs.shape[1:-1], asked, strict=True))


def _images(value: Tensor) -> tuple[jax.Array, tuple[int, ...]]:
    order = channels_last(value.ndim)
    return stored(value, order), order


def _each(values: _Sizes, count: int) -> list[int]:
    listed = [values] if isinstance(values, int) else list(values or ())
    return listed if len(listed) == count else listed * count


OPERATORS: dict[str, Callable[..., Any]] = {
    "_adaptive_avg_pool2d": _adaptive_avg,
    "_adaptive_avg_pool3d": _adaptive_avg,
    "_upsample_nearest_exact1d.vec": _resize("nearest-exact"),
    "_upsample_nearest_exact2d.vec": _resize("nearest-exact"),
    "adaptive_avg_pool1d": _adaptive_avg,
    "adaptive_avg_pool2d": _adaptive_avg,
    "adaptive_max_pool1d": _adaptive_max,
    "adaptive_max_pool2d": _adaptive_max,
    "avg_pool1d": _avg_pool,
    "avg_pool2d": _avg_pool,
    "avg_pool3d": _avg_pool,
    "max_pool1d_with_indices": _max_pool,
    "max_pool2d_with_indices": _max_pool,
    "max_pool3d_with_indices": _max_pool,
    "upsample_bicubic2d.vec": _resize("cubic"),
    "upsample_bilinear2d.vec": _resize("linear"),
    "upsample_linear1d.vec": _resize("linear"),
    "upsample_nearest1d.vec": _resize("nearest"),
    "upsample_nearest2d.vec": _resize("nearest"),
}
"""JAX functions by the names of PyTorch's operators."""
