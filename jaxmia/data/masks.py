"""Which model trains on which sample, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWN = -1
"""In `Masks.fixed`: the sample is drawn for each model."""

_MASK, _ORDER = 0, 1


@dataclass(frozen=True, eq=False)
class Masks:
    """Who trains on whom: a function of the seed, a model's number and what is fixed for all models.

    Attributes:
        seed: Seed of the run, 0 or more.
        fixed: int8 `[sample]`: 1 trains every model, 0 none, -1 is drawn for each model by a fair coin of its own.
    """

    seed: int
    fixed: np.ndarray

    @classmethod
    def random(cls, seed: int, samples: int) -> "Masks":
        """Every sample is drawn."""
        return cls(seed, np.full(samples, DRAWN, np.int8))

    def __call__(self, models: Sequence[int]) -> np.ndarray:
        """The masks of these models, bool `[model, sample]`."""
        drawn = membership_masks(self.seed, models, len(self.fixed))
        return np.where(self.fixed == DRAWN, drawn, self.fixed == 1)


def membership_masks(seed: int, models: Sequence[int], samples: int) -> np.ndarray:
    """Draws who is IN: bool `[model, sample]`, independent Bernoulli(1/2).

    Bits come from a counter-based generator keyed by the seed and the model's number, so that a model's row depends on
    nothing else, and the first samples of a row stay what they are when the pool grows.

    Args:
        seed: Seed of the run, 0 or more.
        models: Numbers of the models, 0 or more.
        samples: Size of the pool.
    """
    words = -(-samples // 64)
    rows = [_generator(seed, model, _MASK).random_raw(words) for model in models]
    bits = np.unpackbits(np.array(rows, dtype="<u8").view(np.uint8).reshape(len(rows), -1), axis=1, bitorder="little")
    return bits[:, :samples].astype(bool)


def batch_order(seed: int, model: int, members: np.ndarray, epoch: int, batch_size: int) -> np.ndarray:
    """The batches of one epoch of one model: a permutation of its IN set, int32 `[step, batch]`.

    The last batch is filled up from the front of the permutation (again and again where the IN set is smaller than a
    batch), so that every batch is full and holds the model's own samples only.

    Args:
        seed: Seed of the run.
        model: Number of the model.
        members: Indices of the model's IN samples, `[member]`, at least one.
        epoch: Number of the epoch, 0 or more.
        batch_size: Samples a step.
    """
    keys = _generator(seed, model, _ORDER, epoch).random_raw(len(members))
    permutation = members[np.argsort(keys, kind="stable")]
    steps = steps_per_epoch(len(members), batch_size)
    return np.resize(permutation, (steps, batch_size)).astype(np.int32)


def steps_per_epoch(members: int, batch_size: int) -> int:
    """Steps that show each of `members` samples at least once."""
    return -(-members // batch_size)


def _generator(seed: int, model: int, purpose: int, epoch: int = 0) -> np.random.Philox:
    """A stream of its own for each (seed, model, purpose, epoch)."""
    return np.random.Philox(key=[seed, model], counter=[0, 0, purpose, epoch])
