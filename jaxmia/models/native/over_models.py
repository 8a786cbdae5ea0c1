"""Functions of one model that are computed for many by a kernel with a model axis."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


def over_models(many: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function of one model, whose rule under `vmap` is `many`, from one with a leading model axis."""

    @custom_vmap
    def function(*operands: Any) -> Any:
        results = many(*jax.tree.map(lambda value: value[None], operands))
        return jax.tree.map(lambda value: value[0], results)

    @function.def_vmap
    def rule(axis_size: int, batched: Sequence[Any], *operands: Any) -> tuple[Any, Any]:
        def spread(is_batched: bool, value: jax.Array) -> jax.Array:
            return value if is_batched else jnp.broadcast_to(value, (axis_size, *value.shape))

        results = many(*jax.tree.map(spread, tuple(batched), operands))
        return results, jax.tree.map(lambda _: True, results)

    return function
