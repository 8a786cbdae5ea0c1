"""Attacks composed of other attacks: fusion by rank, and calibration by class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Real

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.protocol import Attack
from jaxmia.attacks.ranks import ranks
from jaxmia.errors import InputError


def mean_rank(scores: Sequence[Real[np.ndarray, " sample"]]) -> Float[np.ndarray, " sample"]:
    """Mean rank of each sample over attacks, whose scores are given, in (0, 1]; ties share a rank."""
    return np.mean([ranks(score) / len(score) for score in scores], axis=0)


@dataclass(frozen=True)
class RankFusion:
    """Mean rank of a sample over several attacks, with equal weights.

    >>> none = np.zeros((0, 1, 2)), np.zeros((0, 2), bool)
    >>> evidence = Evidence(np.array([[0.0, 100.0]]), *none, np.array([0, 1]))
    >>> from jaxmia.attacks import Loss, Margin
    >>> RankFusion((Loss(), Margin()))(evidence)
    array([0.5, 1. ])
    """

    attacks: tuple[Attack, ...]

    def __post_init__(self) -> None:
        if not self.attacks:
            raise InputError("RankFusion: attacks: is empty, expected at least one attack to fuse")

    @property
    def name(self) -> str:
        """`fusion(...)` with the names of the attacks."""
        return f"fusion({'+'.join(attack.name for attack in self.attacks)})"

    def __call__(self, evidence: Evidence) -> Float[np.ndarray, " sample"]:
        """Computes the scores, in (0, 1]; higher means member.

        Raises:
            InputError: One of the attacks raises it.
        """
        return mean_rank([attack(evidence) for attack in self.attacks])


@dataclass(frozen=True)
class PerClass:
    """Another attack's scores minus the median of their class, in interquartile ranges of the class.

    A single threshold then gives similar false positive rates in all classes, if members are equally frequent in each.

    >>> from jaxmia.attacks import Margin
    >>> none = np.zeros((0, 1, 6)), np.zeros((0, 6), bool)
    >>> evidence = Evidence(np.array([[0.0, 1.0, 2.0, 10.0, 20.0, 30.0]]), *none, np.array([0, 0, 0, 1, 1, 1]))
    >>> PerClass(Margin())(evidence)
    array([-1.,  0.,  1., -1.,  0.,  1.])
    """

    attack: Attack

    @property
    def name(self) -> str:
        """Name of the attack, followed by `-per-class`."""
        return f"{self.attack.name}-per-class"

    def __call__(self, evidence: Evidence) -> Float[np.ndarray, " sample"]:
        """Computes the scores; higher means member.

        Raises:
            InputError: The attack raises it.
        """
        scores = np.array(self.attack(evidence), np.float64)
        for label in np.unique(evidence.labels):
            chosen = evidence.labels == label
            low, median, high = np.quantile(scores[chosen], [0.25, 0.5, 0.75])
            scores[chosen] = (scores[chosen] - median) / (high - low if high > low else 1.0)
        return scores
