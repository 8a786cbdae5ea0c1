"""Membership masks and batch order: which model trains on which samples, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8, Int32, Integer, Shaped

DRAWN = -1
"""Value in `Masks.fixed` of a sample whose membership is drawn for each model."""

_MASK, _ORDER, _FIX, _FOLD, _CHANCE = 0, 1, 2, 3, 4


@dataclass(frozen=True, eq=False)
class Masks:
    """Membership masks as a function of the seed, a model's number and the fixed memberships.

    Attributes:
        seed: Seed of the run, at least 0.
        fixed: 1 if the sample is IN for every model, 0 if it is OUT for every model, and -1 if its membership is drawn
            independently for each model.
        chance: Probability with which a sample is drawn to be IN; None for 1/2 each.
    """

    seed: int
    fixed: Int8[np.ndarray, " sample"]
    chance: Float[np.ndarray, " sample"] | None = None

    @classmethod
    def random(cls, seed: int, samples: int) -> "Masks":
        """Masks in which the membership of every sample is drawn for each model."""
        return cls(seed, np.full(samples, DRAWN, np.int8))

    @classmethod
    def knowing(cls, seed: int, membership: Integer[np.ndarray, " sample"], known: float) -> "Masks":
        """Fixes a fraction of the known memberships in all models, and draws all others.

        A fixed member is in every shadow's training set and a fixed non-member in none. The shadows share this part of
        their training set with the target, which reduces the variance of their margins. A fixed sample has no IN or no
        OUT models, so it cannot be scored. The seed draws which samples are fixed, whatever their membership, so that
        the fixed memberships say nothing about the others. If every membership is known, none is fixed, since no sample
        would be left to score.

        Args:
            seed: Seed of the run.
            membership: 1 for members, 0 for non-members, -1 for unknown.
            known: Fraction of the known memberships that is fixed, from 0 (all are drawn) to 1.
        """
        fixed = np.full(len(membership), DRAWN, np.int8)
        order = np.argsort(_generator(seed, 0, _FIX).random_raw(len(membership)), kind="stable")
        candidates = order[membership[order] != DRAWN]
        if len(candidates) < len(membership):
            chosen = candidates[: round(known * len(candidates))]
            fixed[chosen] = membership[chosen]
        return cls(seed, fixed)

    @property
    def free(self) -> Bool[np.ndarray, " sample"]:
        """Whether a sample's membership is drawn for each model, so that it can be scored."""
        return self.fixed == DRAWN

    def __call__(self, models: Sequence[int]) -> Bool[np.ndarray, "model sample"]:
        """Masks of the given models; True is IN."""
        if self.chance is None:
            drawn = membership_masks(self.seed, models, len(self.fixed))
        else:
            raw = [_generator(self.seed, model, _CHANCE).random_raw(len(self.fixed)) for model in models]
            drawn = np.array(raw) * 2.0**-64 < self.chance
        return np.where(self.free, drawn, self.fixed == 1)


def membership_masks(seed: int, models: Sequence[int], samples: int) -> Bool[np.ndarray, "model sample"]:
    """Draws membership masks with independent Bernoulli(1/2) entries.

    The bits come from a counter-based generator keyed by the seed and the model's number, so that a model's row depends
    on nothing else, and its first entries do not change when the pool grows.

    Args:
        seed: Seed of the run, at least 0.
        models: Numbers of the models, at least 0.
        samples: Number of samples in the pool.

    >>> membership_masks(0, [5, 2], 100)[1, :4].tolist() == membership_masks(0, [2], 4)[0].tolist()
    True
    """
    words = -(-samples // 64)
    rows = [_generator(seed, model, _MASK).random_raw(words) for model in models]
    bits = np.unpackbits(np.array(rows, dtype="<u8").view(np.uint8).reshape(len(rows), -1), axis=1, bitorder="little")
    return bits[:, :samples].astype(bool)


def draw_folds(seed: int, samples: int, folds: int) -> Integer[np.ndarray, " sample"]:
    """Divides samples into folds of nearly equal size at random; returns the fold of each.

    The draw depends on the seed alone, not on who is a member: given the folds, each sample's membership is as
    uncertain as before.

    Args:
        seed: Seed of the run, at least 0.
        samples: Number of samples in the pool.
        folds: Number of folds.

    >>> sorted(draw_folds(0, 5, 2).tolist())
    [0, 0, 0, 1, 1]
    """
    order = np.argsort(_generator(seed, 0, _FOLD).random_raw(samples), kind="stable")
    fold = np.empty(samples, np.int64)
    fold[order] = np.arange(samples) % folds
    return fold


def join_folds(
    parts: Sequence[Shaped[np.ndarray, "*axes sample"]], fold: Integer[np.ndarray, " sample"]
) -> Shaped[np.ndarray, "*axes sample"]:
    """Takes each sample from the array of its own fold.

    Args:
        parts: An array for each fold.
        fold: Fold of each sample.

    >>> join_folds([np.array([1, 2, 3]), np.array([10, 20, 30])], np.array([0, 1, 0]))
    array([ 1, 20,  3])
    """
    joined = np.array(parts[0])
    for number, part in enumerate(parts):
        joined[..., fold == number] = part[..., fold == number]
    return joined


def batch_order(
    seed: int, model: int, members: Integer[np.ndarray, " member"], epoch: int, batch_size: int
) -> Int32[np.ndarray, "step batch"]:
    """Draws the batches of one epoch of one model: a permutation of its IN set.

    The last batch is filled up from the front of the permutation (repeatedly if the IN set is smaller than a batch), so
    that every batch is full and contains only the model's own samples.

    Args:
        seed: Seed of the run.
        model: Number of the model.
        members: Indices of the model's IN samples, at least one.
        epoch: Number of the epoch, from 0.
        batch_size: Number of samples in a batch.

    >>> order = batch_order(0, 0, np.array([3, 4, 7, 9, 12]), 0, 2)
    >>> order.shape, sorted(set(order.ravel().tolist()))
    ((3, 2), [3, 4, 7, 9, 12])
    """
    keys = _generator(seed, model, _ORDER, epoch).random_raw(len(members))
    permutation = members[np.argsort(keys, kind="stable")]
    steps = steps_per_epoch(len(members), batch_size)
    return np.resize(permutation, (steps, batch_size)).astype(np.int32)


def steps_per_epoch(members: int, batch_size: int) -> int:
    """Number of steps in an epoch that visits each of `members` samples at least once."""
    return -(-members // batch_size)


def _generator(seed: int, model: int, purpose: int, epoch: int = 0) -> np.random.Philox:
    """Creates an independent random stream for each (seed, model, purpose, epoch)."""
    return np.random.Philox(key=[seed, model], counter=[0, 0, purpose, epoch])
