"""Converts trees of arrays, such as the state of an ensemble, to named NumPy arrays and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxmia.errors import InputError


def named_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Copies the arrays of a tree to NumPy, named by their paths, such as `state/params/conv/kernel`.

    They must be copies because the next training step reuses the memory of the state.
    """
    return {_name(path): np.array(value) for path, value in jax.tree_util.tree_flatten_with_path(tree)[0]}


def tree_of(arrays: Mapping[str, np.ndarray], like: Any, source: str) -> Any:
    """Restores a tree from named arrays, placing each on the devices of its counterpart in `like`.

    Args:
        arrays: Result of `named_arrays`.
        like: Tree with the same structure, shapes and dtypes; its values are not used.
        source: Origin of the arrays, for error messages.

    Raises:
        InputError: An array is missing, unexpected, or of the wrong shape or dtype; the message lists every difference.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = {_name(path): value for path, value in paths}
    differences = [
        f"{name} is {there} there and {here} here"
        for name in sorted({*arrays, *wanted})
        if (there := _described(arrays.get(name))) != (here := _described(wanted.get(name)))
    ]
    if differences:
        raise InputError(f"{source}: does not match this program: {'; '.join(differences)}")
    return structure.unflatten(
        [
            jax.device_put(arrays[name], value.sharding) if isinstance(value, jax.Array) else arrays[name]
            for name, value in wanted.items()
        ]
    )


def pick(arrays: Mapping[str, np.ndarray], models: Sequence[int], wanted: Sequence[int]) -> dict[str, np.ndarray]:
    """Selects the rows of the `wanted` models from arrays whose rows belong to `models`."""
    row = {model: index for index, model in enumerate(models)}
    rows = [row[model] for model in wanted]
    return {name: array[rows] for name, array in arrays.items()}


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _described(value: np.ndarray | jax.Array | None) -> str:
    return "missing" if value is None else f"{value.dtype} {list(value.shape)}"
