"""Stores trained weights, so that shadow models can be queried again."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxmia.errors import InputError
from jaxmia.files import load_npz, save_npz
from jaxmia.provenance import digest
from jaxmia.training.arrays import named_arrays, pick, tree_of
from jaxmia.training.trainer import State


class Weights:
    """The directory `weights/` of a run: one `.npz` for each chunk, with `model [model]` and its named arrays.

    The optimizer's state, which only training needs, is not kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def write(self, models: Sequence[int], state: State) -> str:
        """Stores the weights and statistics of the models, the first of those in `state`; returns their digest."""
        arrays = {name: array[: len(models)] for name, array in named_arrays(_queried(state)).items()}
        save_npz(self.path(models), {"model": np.array(models, np.int64), **arrays})
        return _digest(arrays)

    def read(self, models: Sequence[int], kept: str) -> dict[str, np.ndarray]:
        """Reads the named arrays of a chunk's models.

        Args:
            models: Numbers of the chunk's models.
            kept: Digest that `write` returned.

        Raises:
            InputError: The file is missing or damaged, or contains other models or other weights.
        """
        path = self.path(models)
        arrays = load_npz(path, required=("model",))
        held = arrays.pop("model").tolist()
        if held != list(models):
            raise InputError(f"{path}: contains models {held}, expected {list(models)}")
        if _digest(arrays) != kept:
            raise InputError(f"{path}: contains other weights than those whose margins are stored")
        return arrays

    def path(self, models: Sequence[int]) -> Path:
        """Path of a chunk's file."""
        return self.folder / f"{min(models):05d}-{max(models):05d}.npz"


def state_of(
    arrays: Mapping[str, np.ndarray],
    models: Sequence[int],
    wanted: Sequence[int],
    init: Callable[[Sequence[int]], State],
    source: str,
) -> State:
    """Restores the state of some models for queries.

    Args:
        arrays: Named arrays, as `Weights.read` returns them.
        models: Numbers of the models that the arrays belong to.
        wanted: Numbers of the models in the restored state, each one of `models`.
        init: Initialises a state of the same structure; its values are not used.
        source: Origin of the arrays, for error messages.

    Raises:
        InputError: The arrays belong to another network; the message lists every difference.
    """
    return tree_of(pick(arrays, models, wanted), _queried(init(wanted)), source)


def _queried(state: State) -> State:
    """Part of the state that queries need."""
    return {name: part for name, part in state.items() if name != "optimizer"}


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    return digest(*(part for name in sorted(arrays) for part in (name.encode(), arrays[name])))
