"""Trained weights that are kept, so that shadow models can be asked again."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxmia.errors import InputError
from jaxmia.files import load_npz, save_npz
from jaxmia.training.arrays import named_arrays, pick, tree_of
from jaxmia.training.step import State


class Weights:
    """The folder `weights/` of a run: one `.npz` a chunk with `model [m]` and each array of its models, by name.

    What only training needs, the memory of the optimizer, is not kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def write(self, models: Sequence[int], state: State) -> None:
        """Stores the weights and statistics of the models, the first of those in `state`."""
        arrays = {name: array[: len(models)] for name, array in named_arrays(_asked(state)).items()}
        save_npz(self._path(models), {"model": np.array(models, np.int64), **arrays})

    def lacking(self, chunks: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """Of these chunks, those whose weights were not kept."""
        return [models for models in chunks if not self._path(models).exists()]

    def read(self, models: Sequence[int], init: Callable[[Sequence[int]], State], together: Sequence[int]) -> State:
        """The state of a chunk's models, fit for queries.

        Args:
            models: The chunk's.
            init: Makes a state of the same program; its values are not used.
            together: The models of the state, all of them in the chunk.

        Raises:
            InputError: The file is missing or damaged, or is of other models or another network.
        """
        path = self._path(models)
        arrays = load_npz(path, required=("model",))
        held = arrays.pop("model").tolist()
        if not set(together) <= set(held):
            raise InputError(f"{path}: holds models {held}, expected {list(models)}")
        return tree_of(pick(arrays, held, together), _asked(init(together)), str(path))

    def _path(self, models: Sequence[int]) -> Path:
        return self.folder / f"{min(models):05d}-{max(models):05d}.npz"


def _asked(state: State) -> State:
    """What queries need."""
    return {name: part for name, part in state.items() if name != "optimizer"}
