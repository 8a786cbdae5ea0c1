"""Arrays whose axes may be stored in another order than PyTorch's.

PyTorch has channels before height and width, but JAX's convolutions are fast with channels last. A `Tensor` therefore
records the order in which its axes are stored, so that permutations move no data, and element-wise operators and
reductions keep the order of their operands.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Order = tuple[int, ...]

_BOOL, _INTEGER, _FLOAT = range(3)


class Tensor(NamedTuple):
    """An array and the order in which its axes are stored.

    Attributes:
        array: The values; axis k of the array is axis `order[k]` of the tensor.
        order: The tensor's axes in the order in which they are stored.
    """

    array: jax.Array
    order: Order

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.array.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the tensor's axes, in PyTorch's order."""
        return tuple(self.array.shape[self.order.index(axis)] for axis in range(self.ndim))

    def axis(self, axis: int) -> int:
        """Position in the array of an axis of the tensor, which may be counted from the end."""
        return self.order.index(axis % self.ndim)


def tensor(array: jax.Array) -> Tensor:
    """Creates a tensor from an array whose axes are in PyTorch's order."""
    return Tensor(array, tuple(range(array.ndim)))


def stored(value: Tensor, order: Sequence[int]) -> jax.Array:
    """Array of a tensor with its axes in the given order."""
    order = tuple(order)
    return value.array if order == value.order else value.array.transpose([value.order.index(axis) for axis in order])


def plain(value: Tensor) -> jax.Array:
    """Array of a tensor with its axes in PyTorch's order."""
    return stored(value, range(value.ndim))


def channels_last(ndim: int) -> Order:
    """Order of axes of a batch with channels last: samples, spatial axes, channels."""
    return (0, *range(2, ndim), 1)


def in_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function of arrays in PyTorch's order of axes take and return tensors."""

    def ordered(*arguments: Any, **options: Any) -> Any:
        return _map_arrays(tensor, function(*_map_tensors(arguments), **_map_tensors(options)))

    return ordered


def elementwise(function: Callable[..., jax.Array]) -> Callable[..., Tensor]:
    """Makes an element-wise function of arrays take and return tensors, in the order of the largest operand.

    Operands of several types are first cast to the type that PyTorch would compute in.
    """

    def mapped(*arguments: Any, **options: Any) -> Tensor:
        tensors = [value for value in arguments if isinstance(value, Tensor)]
        rank = max(value.ndim for value in tensors)
        order = max((value for value in tensors if value.ndim == rank), key=lambda value: value.array.size).order
        aligned = [_aligned(value, order) if isinstance(value, Tensor) else value for value in arguments]
        return Tensor(function(*aligned, **options), order)

    return mapped


def promoted(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Casts the operands of an element-wise function to the type that PyTorch would compute in.

    See `common_dtype`.
    """

    def cast(*arguments: Any, **options: Any) -> jax.Array:
        dtype = common_dtype(arguments)
        return function(*(jnp.asarray(value, dtype) for value in arguments), **options)

    return cast


def common_dtype(values: Sequence[Any]) -> jnp.dtype:
    """Type in which PyTorch computes with these arrays and numbers: of the highest kind among bool, integer and float.

    Among floats the narrowest type counts, since next to a network's half-precision floats only constants are float32.
    Among integers, which mostly have one type, the widest counts.
    """
    kind = max(_kind(value) for value in values)
    dtypes = [value.dtype for value in values if isinstance(value, jax.Array | np.ndarray) and _kind(value) == kind]
    if not dtypes:
        return jnp.dtype((jnp.bool_, jnp.int32, jnp.float32)[kind])
    return (min if kind == _FLOAT else max)(dtypes, key=lambda dtype: dtype.itemsize)


def _kind(value: Any) -> int:
    dtype = value.dtype if isinstance(value, jax.Array | np.ndarray) else np.dtype(type(value))
    return _BOOL if dtype == jnp.bool_ else _INTEGER if jnp.issubdtype(dtype, jnp.integer) else _FLOAT


def _aligned(value: Tensor, order: Order) -> jax.Array:
    """Array of a tensor in the given order, with axes of length one in front of the tensor's own."""
    missing = len(order) - value.ndim
    own = [axis - missing for axis in order if axis >= missing]
    array = stored(value, own)
    return array.reshape([1 if axis < missing else array.shape[own.index(axis - missing)] for axis in order])


def _map_tensors(value: Any) -> Any:
    if isinstance(value, Tensor):
        return plain(value)
    if isinstance(value, dict):
        return {name: _map_tensors(part) for name, part in value.items()}
    return type(value)(map(_map_tensors, value)) if isinstance(value, list | tuple) else value


def _map_arrays(function: Callable[[jax.Array], Tensor], value: Any) -> Any:
    return [function(part) for part in value] if isinstance(value, list | tuple) else function(value)
