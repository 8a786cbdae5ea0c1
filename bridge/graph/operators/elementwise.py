"""Element-wise operators."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bridge.graph.tensor import Tensor, common_dtype, elementwise, promoted


def _unary(function: Callable[..., jax.Array]) -> Callable[..., Tensor]:
    """Makes an operator whose result is a float, for integers too."""
    return elementwise(lambda value, *rest, **options: function(_floating(value), *rest, **options))


def _floating(value: jax.Array) -> jax.Array:
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)


def _binary(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Makes an operator on two tensors, or a tensor and a number; two numbers, such as sizes, give a Python number."""
    return elementwise(promoted(function))


def _add(left: Any, right: Any, alpha: Any = 1) -> jax.Array:
    dtype = common_dtype((left, right))
    right = jnp.asarray(right, dtype)
    return jnp.asarray(left, dtype) + (right if alpha == 1 else alpha * right)


def _subtract(left: Any, right: Any, alpha: Any = 1) -> jax.Array:
    dtype = common_dtype((left, right))
    right = jnp.asarray(right, dtype)
    return jnp.asarray(left, dtype) - (right if alpha == 1 else alpha * right)


def _divide(left: Any, right: Any, rounding_mode: str | None = None) -> jax.Array:
    dtype = common_dtype((left, right))
    left, right = jnp.asarray(left, dtype), jnp.asarray(right, dtype)
    if rounding_mode == "floor":
        return jnp.floor_divide(left, right)
    if rounding_mode == "trunc":
        return jnp.trunc(_floating(left) / _floating(right)).astype(dtype)
    return _floating(left) / _floating(right)


def _power(base: Any, exponent: Any) -> jax.Array:
    if isinstance(exponent, int | float) and exponent in (2, 3, 0.5, -0.5):
        return {2: jnp.square, 3: lambda x: x * x * x, 0.5: jnp.sqrt, -0.5: jax.lax.rsqrt}[exponent](
            base if exponent in (2, 3) else _floating(base)
        )
    dtype = common_dtype((base, exponent))
    return jnp.power(jnp.asarray(base, dtype), jnp.asarray(exponent, dtype))


def _absolute(value: jax.Array) -> jax.Array:
    """Absolute values, with no gradient at zero, as in PyTorch."""
    return jnp.where(value == 0, jnp.zeros_like(value), jnp.abs(value))


def _clamp(value: jax.Array, low: Any = None, high: Any = None) -> jax.Array:
    """Limits values; the gradient passes at the bounds too, as in PyTorch."""
    dtype = common_dtype([bound for bound in (value, low, high) if bound is not None])
    value = value.astype(dtype)
    if low is not None:
        value = jnp.where(value < low, jnp.asarray(low, dtype), value)
    return value if high is None else jnp.where(value > high, jnp.asarray(high, dtype), value)


def _hardtanh(value: jax.Array, low: float = -1, high: float = 1) -> jax.Array:
    """Limits values; no gradient passes at the bounds, as in PyTorch."""
    value = jnp.where(value <= low, jnp.asarray(low, value.dtype), value)
    return jnp.where(value >= high, jnp.asarray(high, value.dtype), value)


def _elu(value: jax.Array, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> jax.Array:
    # The untaken branch must not overflow, or its gradient would be NaN.
    negative = alpha * jnp.expm1(jnp.where(value > 0, 0, value) * input_scale)
    return scale * jnp.where(value > 0, value, negative)


def _leaky_relu(value: jax.Array, slope: float = 0.01) -> jax.Array:
    return jnp.where(value > 0, value, slope * value)


def _gelu(value: jax.Array, approximate: str = "none") -> jax.Array:
    return jax.nn.gelu(value, approximate=approximate == "tanh")


def _where(condition: jax.Array, left: Any, right: Any) -> jax.Array:
    dtype = common_dtype((left, right))
    return jnp.where(condition, jnp.asarray(left, dtype), jnp.asarray(right, dtype))


def _masked_fill(value: jax.Array, mask: jax.Array, filler: Any) -> jax.Array:
    return jnp.where(mask, jnp.asarray(filler, value.dtype), value)


def _cast(value: jax.Array, dtype: Any = None, **_: Any) -> jax.Array:
    """Casts between kinds of types; a float keeps the type that the network computes in."""
    both_floats = dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.issubdtype(value.dtype, dtype.kind)
    return value if dtype is None or both_floats else value.astype(dtype)


_UNARY: dict[str, Callable[..., jax.Array]] = {
    "acos": jnp.arccos,
    "acosh": jnp.arccosh,
    "asin": jnp.arcsin,
    "asinh": jnp.arcsinh,
    "atan": jnp.arctan,
    "atanh": jnp.arctanh,
    "cos": jnp.cos,
    "cosh": jnp.cosh,
    "elu": _elu,
    "erf": jax.lax.erf,
    "exp": jnp.exp,
    "expm1": jnp.expm1,
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "log": jnp.log,
    "log10": jnp.log10,
    "log1p": jnp.log1p,
    "log2": jnp.log2,
    "reciprocal": jnp.reciprocal,
    "rsqrt": jax.lax.rsqrt,
    "sigmoid": jax.nn.sigmoid,
    "sin": jnp.sin,
    "sinh": jnp.sinh,
    "sqrt": jnp.sqrt,
    "tan": jnp.tan,
    "tanh": jnp.tanh,
}
_KEEPING: dict[str, Callable[..., jax.Array]] = {
    "_to_copy": _cast,
    "abs": _absolute,
    "alias": lambda value: value,
    "bitwise_not": jnp.bitwise_not,
    "ceil": jnp.ceil,
    "clamp": _clamp,
    "clone": lambda value: value,
    "contiguous": lambda value: value,
    "detach": lambda value: jax.lax.stop_gradient(value),
    "floor": jnp.floor,
    "hardtanh": _hardtanh,
    "isinf": jnp.isinf,
    "isnan": jnp.isnan,
    "lift_fresh_copy": lambda value: value,
    "logical_not": jnp.logical_not,
    "masked_fill": _masked_fill,
    "neg": jnp.negative,
    "relu": jax.nn.relu,
    "round": jnp.round,
    "sign": jnp.sign,
    "trunc": jnp.trunc,
    "where": _where,
    "add": _add,
    "sub": _subtract,
    "div": _divide,
    "pow": _power,
}
_BINARY: dict[str, Callable[..., jax.Array]] = {
    "atan2": jnp.arctan2,
    "bitwise_and": jnp.bitwise_and,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_xor": jnp.bitwise_xor,
    "eq": operator.eq,
    "fmod": jnp.fmod,
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_xor": jnp.logical_xor,
    "lt": operator.lt,
    "max.other": jnp.maximum,
    "maximum": jnp.maximum,
    "min.other": jnp.minimum,
    "minimum": jnp.minimum,
    "mul": jnp.multiply,
    "ne": operator.ne,
    "remainder": jnp.remainder,
}

OPERATORS: dict[str, Callable[..., Any]] = {
    **{name: _unary(function) for name, function in _UNARY.items()},
    **{name: elementwise(function) for name, function in _KEEPING.items()},
    **{name: _binary(function) for name, function in _BINARY.items()},
}
"""JAX functions by the names of PyTorch's operators."""
