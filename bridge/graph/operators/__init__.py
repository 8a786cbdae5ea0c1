"""PyTorch's core operators in JAX, with a module for each family."""

from collections.abc import Callable
from typing import Any

from bridge.graph.operators import (
    convolution,
    elementwise,
    normalisation,
    pooling,
    product,
    random,
    reduction,
    shape,
)

PURE: dict[str, Callable[..., Any]] = {
    **elementwise.OPERATORS,
    **normalisation.OPERATORS,
    **pooling.OPERATORS,
    **product.OPERATORS,
    **reduction.OPERATORS,
    **shape.OPERATORS,
}
"""Functions of tensors and numbers by the names of PyTorch's operators, as `name.overload` where overloads differ."""

RANDOM: dict[str, Callable[..., Any]] = random.OPERATORS
"""Functions whose first argument is a random key."""

COMPUTED: dict[str, Callable[..., Any]] = {
    **convolution.COMPUTED,
    **normalisation.COMPUTED,
    **product.COMPUTED,
}
"""Functions whose first argument is a `Compute`: the network's convolution, batch normalisation and product."""

COMPUTED_RANDOM: dict[str, Callable[..., Any]] = product.COMPUTED_RANDOM
"""Functions whose first arguments are a `Compute` and a random key: attention."""

NAMES = frozenset().union(PURE, RANDOM, COMPUTED, COMPUTED_RANDOM)
"""Names of all operators."""
