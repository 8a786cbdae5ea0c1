"""The accuracy of a target, against that of a prediction that ignores the sample."""

import numpy as np
from jaxtyping import Bool, Int

CHECK_PREPROCESSING = "check challenge.image_size, mean and std, and that labels begin at 0"
"""What to do about a target that is near chance."""

_MARGIN = 0.1


def by_membership(
    correct: Bool[np.ndarray, " sample"], membership: Int[np.ndarray, " sample"]
) -> dict[str, Bool[np.ndarray, " _"]]:
    """Which predictions on public members and on public non-members are correct, without groups that are empty.

    >>> by_membership(np.array([True, False, True]), np.array([1, 1, -1]))
    {'public members': array([ True, False])}
    """
    groups = {"public members": correct[membership == 1], "public non-members": correct[membership == 0]}
    return {name: group for name, group in groups.items() if len(group)}


def chance_accuracy(labels: Int[np.ndarray, " sample"]) -> float:
    """Accuracy of always predicting the most common class.

    >>> chance_accuracy(np.array([2, 0, 2, 1]))
    0.5
    """
    return float(np.unique_counts(labels).counts.max() / len(labels))


def near_chance(correct: Bool[np.ndarray, " sample"], labels: Int[np.ndarray, " sample"]) -> bool:
    """Whether predictions avoid less than a tenth of the errors of always predicting the most common class.

    >>> near_chance(np.array([True, False, True, False]), np.array([2, 0, 2, 1]))
    True
    >>> near_chance(np.array([True, True, True, False]), np.array([2, 0, 2, 1]))
    False
    """
    chance = chance_accuracy(labels)
    return bool(correct.mean() < chance + _MARGIN * (1 - chance))
