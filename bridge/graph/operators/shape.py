"""Operators that move, select, join or create values."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bridge.graph.tensor import Tensor, common_dtype, in_order, stored, tensor


def _permute(value: Tensor, axes: Sequence[int]) -> Tensor:
    """Permutes the axes without moving data, by changing their recorded order."""
    axes = [axis % value.ndim for axis in axes]
    return Tensor(value.array, tuple(axes.index(axis) for axis in value.order))


def _transpose(value: Tensor, first: int, second: int) -> Tensor:
    axes = list(range(value.ndim))
    axes[first], axes[second] = axes[second], axes[first]
    return _permute(value, axes)


def _unsqueeze(value: Tensor, axis: int) -> Tensor:
    axis %= value.ndim + 1
    order = (axis, *(own + (own >= axis) for own in value.order))
    return Tensor(value.array[None], order)


def _squeeze(value: Tensor, axes: int | Sequence[int] | None = None) -> Tensor:
    listed = range(value.ndim) if axes is None else [axes] if isinstance(axes, int) else axes
    gone = {axis % value.ndim for axis in listed if value.shape[axis] == 1}
    kept = [axis for axis in value.order if axis not in gone]
    return Tensor(
        value.array.squeeze(tuple(value.axis(axis) for axis in gone)),
        tuple(sorted(kept).index(axis) for axis in kept),
    )


def _view(array: jax.Array, shape: Sequence[int]) -> jax.Array:
    return array.reshape(tuple(shape))


def _expand(array: jax.Array, shape: Sequence[int], implicit: bool = False) -> jax.Array:
    padded = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    return jnp.broadcast_to(padded, [own if new == -1 else new for own, new in zip(padded.shape, shape, strict=True)])


def _slice(value: Tensor, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    place = value.axis(axis)
    index = [slice(None)] * value.ndim
    index[place] = slice(start, end, step)
    return Tensor(value.array[tuple(index)], value.order)


def _select(value: Tensor, axis: int, index: int) -> Tensor:
    axis %= value.ndim
    array = jax.lax.index_in_dim(value.array, index, value.axis(axis), keepdims=False)
    return Tensor(array, tuple(own - (own > axis) for own in value.order if own != axis))


def _cat(values: Sequence[Tensor], axis: int = 0) -> Tensor:
    # PyTorch accepts an empty one-dimensional tensor next to tensors of any rank.
    values = [value for value in values if value.shape != (0,)] or list(values)
    order = max(values, key=lambda value: value.array.size).order
    dtype = common_dtype([value.array for value in values])
    arrays = [stored(value, order).astype(dtype) for value in values]
    return Tensor(jnp.concatenate(arrays, values[0]._replace(order=order).axis(axis)), order)


def _stack(values: Sequence[Tensor], axis: int = 0) -> Tensor:
    return _cat([_unsqueeze(value, axis) for value in values], axis)


def _split(value: Tensor, sizes: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    length = value.shape[axis]
    if isinstance(sizes, int):
        sizes = [min(sizes, length - start) for start in range(0, length, sizes)]
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    return [_slice(value, axis, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _unbind(value: Tensor, axis: int = 0) -> list[Tensor]:
    return [_select(value, axis, index) for index in range(value.shape[axis])]


def _pad(value: Tensor, amounts: Sequence[int], filler: float = 0.0, mode: str = "constant") -> Tensor:
    """Pads the last axes, the very last one first; a negative amount cuts off."""
    pairs = [(0, 0)] * value.ndim
    for number in range(len(amounts) // 2):
        pairs[value.axis(-1 - number)] = (amounts[2 * number], amounts[2 * number + 1])
    if mode != "constant":
        return Tensor(jnp.pad(value.array, pairs, mode=mode), value.order)
    config = [(low, high, 0) for low, high in pairs]
    return Tensor(jax.lax.pad(value.array, jnp.asarray(filler, value.array.dtype), config), value.order)


def _repeat(array: jax.Array, times: Sequence[int]) -> jax.Array:
    return jnp.tile(array.reshape((1,) * (len(times) - array.ndim) + array.shape), times)


def _roll(array: jax.Array, shifts: int | Sequence[int], axes: int | Sequence[int] = ()) -> jax.Array:
    shifts = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    return jnp.roll(array, shifts, axes) if axes else jnp.roll(array.ravel(), shifts[0]).reshape(array.shape)


def _index(array: jax.Array, indices: Sequence[jax.Array | None]) -> jax.Array:
    return array[tuple(slice(None) if index is None else index for index in indices)]


def _index_put(
    array: jax.Array, indices: Sequence[jax.Array | None], values: jax.Array, accumulate: bool = False
) -> jax.Array:
    place = array.at[tuple(slice(None) if index is None else index for index in indices)]
    values = values.astype(array.dtype)
    return place.add(values) if accumulate else place.set(values)


def _gather(array: jax.Array, axis: int, index: jax.Array, sparse_grad: bool = False) -> jax.Array:
    if index.ndim == array.ndim:
        cut = tuple(slice(None) if own == axis % array.ndim else slice(n) for own, n in enumerate(index.shape))
        array = array[cut]
    return jnp.take_along_axis(array, index, axis)


def _slice_scatter(
    array: jax.Array, source: jax.Array, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> jax.Array:
    index = [slice(None)] * array.ndim
    index[axis] = slice(start, end, step)
    return array.at[tuple(index)].set(source)


def _select_scatter(array: jax.Array, source: jax.Array, axis: int, index: int) -> jax.Array:
    place: list[Any] = [slice(None)] * array.ndim
    place[axis] = index
    return array.at[tuple(place)].set(source)


def _full(shape: Sequence[int], value: Any, dtype: Any = None) -> Tensor:
    return tensor(jnp.full(tuple(shape), value, dtype or common_dtype([value])))


def _full_like(value: Tensor, filler: Any, dtype: Any = None) -> Tensor:
    return Tensor(jnp.full_like(value.array, filler, dtype or value.array.dtype), value.order)


def _new_full(value: Tensor, shape: Sequence[int], filler: Any, dtype: Any = None) -> Tensor:
    return _full(shape, filler, dtype or value.array.dtype)


def _arange(*bounds: Any, dtype: Any = None) -> Tensor:
    return tensor(jnp.arange(*bounds, dtype=dtype or common_dtype(bounds)))


def _of_shape(filler: float) -> Callable[..., Tensor]:
    return lambda shape, dtype=None: _full(shape, filler, dtype or jnp.float32)


def _like(filler: float) -> Callable[..., Tensor]:
    return lambda value, dtype=None: _full_like(value, filler, dtype)


def _new(filler: float) -> Callable[..., Tensor]:
    return lambda value, shape, dtype=None: _new_full(value, shape, filler, dtype)


def _empty_strided(shape: Sequence[int], strides: Sequence[int], dtype: Any = None) -> Tensor:
    return _full(shape, 0, dtype or jnp.float32)


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    return tensor(_expand(stored(source, range(source.ndim)), target.shape).astype(target.array.dtype))


def _size(value: Tensor, axis: int) -> int:
    return value.shape[axis]


def _numel(value: Tensor) -> int:
    return math.prod(value.shape)


def _triangle(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda array, diagonal=0: function(array, diagonal)


OPERATORS: dict[str, Callable[..., Any]] = {
    "_unsafe_view": in_order(_view),
    "arange": _arange,
    "cat": _cat,
    "constant_pad_nd": _pad,
    "copy": _copy,
    "diagonal": in_order(jnp.diagonal),
    "empty": _of_shape(0),
    "empty_like": _like(0),
    "empty_permuted": lambda shape, order, dtype=None: _full(shape, 0, dtype or jnp.float32),
    "empty_strided": _empty_strided,
    "expand": in_order(_expand),
    "flip": in_order(lambda array, axes: jnp.flip(array, tuple(axes))),
    "full": _full,
    "full_like": _full_like,
    "gather": in_order(_gather),
    "index": in_order(_index),
    "index_put": in_order(_index_put),
    "index_select": in_order(lambda array, axis, index: jnp.take(array, index, axis)),
    "new_empty": _new(0),
    "new_full": _new_full,
    "new_ones": _new(1),
    "new_zeros": _new(0),
    "ones": _of_shape(1),
    "ones_like": _like(1),
    "permute": _permute,
    "reflection_pad1d": lambda value, amounts: _pad(value, amounts, mode="reflect"),
    "reflection_pad2d": lambda value, amounts: _pad(value, amounts, mode="reflect"),
    "repeat": in_order(_repeat),
    "replication_pad1d": lambda value, amounts: _pad(value, amounts, mode="edge"),
    "replication_pad2d": lambda value, amounts: _pad(value, amounts, mode="edge"),
    "reshape": in_order(_view),
    "roll": in_order(_roll),
    "scalar_tensor": lambda value, dtype=None: _full((), value, dtype),
    "select": _select,
    "select_scatter": in_order(_select_scatter),
    "slice": _slice,
    "slice_scatter": in_order(_slice_scatter),
    "split": _split,
    "split_with_sizes": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "sym_numel": _numel,
    "sym_size": _size,
    "t": lambda value: _permute(value, range(value.ndim)[::-1]),
    "transpose": _transpose,
    "tril": in_order(_triangle(jnp.tril)),
    "triu": in_order(_triangle(jnp.triu)),
    "unbind": _unbind,
    "unsqueeze": _unsqueeze,
    "view": in_order(_view),
    "zeros": _of_shape(0),
    "zeros_like": _like(0),
}
"""JAX functions by the names of PyTorch's operators."""
