"""Operators that reduce, scan or sort along axes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bridge.graph.tensor import Tensor, in_order

_Axes = int | Sequence[int] | None


def _reduction(function: Callable[..., jax.Array]) -> Callable[..., Tensor]:
    """Makes a reduction over the given axes, or all, that keeps the storage order of the others."""

    def reduced(value: Tensor, axes: _Axes = None, keepdim: bool = False, **options: Any) -> Tensor:
        options.pop("dtype", None)
        listed = [axes] if isinstance(axes, int) else list(axes or range(value.ndim))
        chosen = {axis % value.ndim for axis in listed} if value.ndim else set()
        array = function(value.array, tuple(value.axis(axis) for axis in chosen), keepdims=keepdim, **options)
        if keepdim:
            return Tensor(array, value.order)
        kept = [axis for axis in value.order if axis not in chosen]
        return Tensor(array, tuple(sorted(kept).index(axis) for axis in kept))

    return reduced


def _wide(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Makes a reduction compute half-precision floats in float32, and integers as they are."""

    def computed(array: jax.Array, axes: tuple[int, ...], keepdims: bool, **options: Any) -> jax.Array:
        if array.dtype == jnp.bool_:
            array = array.astype(jnp.int32)
        wide = array.astype(jnp.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array
        result = function(wide, axis=axes, keepdims=keepdims, **options)
        return result.astype(array.dtype) if jnp.issubdtype(array.dtype, jnp.floating) else result

    return computed


def _simple(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda array, axes, keepdims: function(array, axis=axes, keepdims=keepdims)


def _var(value: Tensor, axes: _Axes = None, correction: float | bool | None = None, keepdim: bool = False) -> Tensor:
    ddof = 1 if correction is None else int(correction)
    return _reduction(_wide(lambda array, **options: jnp.var(array, ddof=ddof, **options)))(value, axes, keepdim)


def _var_mean(
    value: Tensor, axes: _Axes = None, correction: float | bool | None = None, keepdim: bool = False
) -> list[Tensor]:
    return [_var(value, axes, correction, keepdim), _MEAN(value, axes, keepdim)]


def _norm(value: Tensor, order: float = 2, axes: _Axes = None, keepdim: bool = False, **_: Any) -> Tensor:
    def norm(array: jax.Array, **options: Any) -> jax.Array:
        if order == 2:
            return jnp.sqrt(jnp.square(array).sum(**options))
        if order == float("inf"):
            return jnp.abs(array).max(**options)
        return (jnp.abs(array) ** order).sum(**options) ** (1 / order)

    return _reduction(_wide(norm))(value, axes, keepdim)


def _softmax(value: Tensor, axis: int, half_to_float: bool = False, *, log: bool = False) -> Tensor:
    function = jax.nn.log_softmax if log else jax.nn.softmax
    wide = value.array.astype(jnp.float32)
    return Tensor(function(wide, axis=value.axis(axis)).astype(value.array.dtype), value.order)


def _extreme(pick: Callable[..., jax.Array]) -> Callable[..., list[jax.Array]]:
    """Makes an operator that returns the extreme values along an axis and their indices; of ties, the first gets the
    gradient."""

    def extreme(array: jax.Array, axis: int, keepdim: bool = False) -> list[jax.Array]:
        place = pick(array, axis=axis, keepdims=True)
        value = jnp.take_along_axis(array, place, axis)
        return [value, place] if keepdim else [value.squeeze(axis), place.squeeze(axis)]

    return extreme


def _place(pick: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda array, axis=None, keepdim=False: pick(array, axis=axis, keepdims=keepdim)


def _cumsum(array: jax.Array, axis: int, **_: Any) -> jax.Array:
    return jnp.cumsum(array.astype(jnp.int32) if array.dtype == jnp.bool_ else array, axis)


def _sort(array: jax.Array, axis: int = -1, descending: bool = False) -> list[jax.Array]:
    place = jnp.argsort(array, axis, descending=descending)
    return [jnp.take_along_axis(array, place, axis), place]


def _topk(array: jax.Array, count: int, axis: int = -1, largest: bool = True, ordered: bool = True) -> list[jax.Array]:
    values, places = _sort(array, axis, descending=largest)
    return [jax.lax.slice_in_dim(part, 0, count, axis=axis % array.ndim) for part in (values, places)]


_MEAN = _reduction(_wide(jnp.mean))

OPERATORS: dict[str, Callable[..., Any]] = {
    "_log_softmax": lambda value, axis, half_to_float=False: _softmax(value, axis, log=True),
    "_softmax": _softmax,
    "all": _reduction(_simple(jnp.all)),
    "amax": _reduction(_simple(jnp.max)),
    "amin": _reduction(_simple(jnp.min)),
    "any": _reduction(_simple(jnp.any)),
    "argmax": in_order(_place(jnp.argmax)),
    "argmin": in_order(_place(jnp.argmin)),
    "cumsum": in_order(_cumsum),
    "linalg_vector_norm": _norm,
    "max": _reduction(_simple(jnp.max)),
    "max.dim": in_order(_extreme(jnp.argmax)),
    "mean": _MEAN,
    "min": _reduction(_simple(jnp.min)),
    "min.dim": in_order(_extreme(jnp.argmin)),
    "prod": _reduction(_simple(jnp.prod)),
    "sort": in_order(_sort),
    "sum": _reduction(_wide(jnp.sum)),
    "topk": in_order(_topk),
    "var": _var,
    "var_mean": _var_mean,
}
"""JAX functions by the names of PyTorch's operators."""
