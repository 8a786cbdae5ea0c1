"""Operators that draw random numbers; the first argument of each is a random key."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bridge.graph.tensor import Tensor, tensor


def dropout(key: jax.Array, array: jax.Array, share: float) -> jax.Array:
    """Sets a fraction of the values to zero and scales up the others, which keeps the mean."""
    if share == 0:
        return array
    if share == 1:
        return jnp.zeros_like(array)
    kept = jax.random.bernoulli(key, 1 - share, array.shape)
    return jnp.where(kept, array / (1 - share), jnp.zeros((), array.dtype))


def _native_dropout(key: jax.Array, value: Tensor, share: float, train: bool | None = None) -> list[Tensor | None]:
    array = dropout(key, value.array, share) if train is not False else value.array
    return [Tensor(array, value.order), None]


def _bernoulli(key: jax.Array, value: Tensor, chance: float | Tensor | None = None) -> Tensor:
    """Draws ones with the given probability, or with the tensor's values as probabilities."""
    odds = value.array if chance is None else chance.array if isinstance(chance, Tensor) else chance
    return Tensor(jax.random.bernoulli(key, odds, value.array.shape).astype(value.array.dtype), value.order)


def _of_shape(draw: Callable[..., jax.Array]) -> Callable[..., Tensor]:
    def drawn(key: jax.Array, shape: Sequence[int], dtype: Any = None) -> Tensor:
        return tensor(draw(key, tuple(shape), dtype or jnp.float32))

    return drawn


def _like(draw: Callable[..., jax.Array]) -> Callable[..., Tensor]:
    def drawn(key: jax.Array, value: Tensor, dtype: Any = None) -> Tensor:
        return Tensor(draw(key, value.array.shape, dtype or value.array.dtype), value.order)

    return drawn


def _uniform(key: jax.Array, value: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    return Tensor(jax.random.uniform(key, value.array.shape, value.array.dtype, low, high), value.order)


def _normal(key: jax.Array, value: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return Tensor(mean + std * jax.random.normal(key, value.array.shape, value.array.dtype), value.order)


OPERATORS: dict[str, Callable[..., Any]] = {
    "bernoulli": _bernoulli,
    "native_dropout": _native_dropout,
    "normal_functional": _normal,
    "rand": _of_shape(jax.random.uniform),
    "rand_like": _like(jax.random.uniform),
    "randn": _of_shape(jax.random.normal),
    "randn_like": _like(jax.random.normal),
    "uniform": _uniform,
}
"""JAX functions by the names of PyTorch's operators."""
