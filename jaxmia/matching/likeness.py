"""How alike the margins of shadows and of a target are distributed."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import wasserstein_distance

MIN_PER_SIDE = 20
"""Public members, and as many non-members, of a class that is compared on its own."""


@dataclass(frozen=True)
class Likeness:
    """How far models of one recipe are from the target, and from each other. Distances are in nats.

    Attributes:
        in_: Distance of each model's IN margins to the target's on members, `[model]`.
        out: Distance of each model's OUT margins to the target's on non-members, `[model]`.
        peers: Mean distance of each model to the others of the recipe, of both sides, `[model]`.
        accuracy_in: Share of IN samples classified rightly, mean over models.
        accuracy_out: The same of OUT samples.
    """

    in_: np.ndarray
    out: np.ndarray
    peers: np.ndarray
    accuracy_in: float
    accuracy_out: float

    @property
    def distances(self) -> np.ndarray:
        """To the target, mean of both sides, `[model]`."""
        return (self.in_ + self.out) / 2

    @property
    def energy_scores(self) -> np.ndarray:
        """Energy score of the target, one term a model, `[model]`: its distance less half of that to its peers.

        The mere distance would favour recipes whose models are all alike and lie in the middle of others. The mean of
        this is least for the recipe that made the target (Gneiting and Raftery, 2007; the Wasserstein-1 distance on the
        line is of negative type).
        """
        return self.distances - self.peers / 2

    @property
    def energy_score(self) -> float:
        """Mean over models; NaN where a training diverged."""
        return float(self.energy_scores.mean())


def likeness(
    target: np.ndarray,
    members: np.ndarray,
    phi: np.ndarray,
    mask: np.ndarray,
    correct: np.ndarray,
    labels: np.ndarray,
) -> Likeness:
    """Compares models of one recipe with the target, all on the same samples.

    Args:
        target: The target's margins in nats, `[sample]`.
        members: On which of them it was trained, bool `[sample]`.
        phi: The models' margins, `[model, sample]`, two models or more.
        mask: Who was trained on whom, bool `[model, sample]`.
        correct: Whether the models' classes are right, bool `[model, sample]`.
        labels: int `[sample]`.
    """
    strata = strata_of(labels, members)
    own = [_Model(margins, trained, strata) for margins, trained in zip(phi.astype(np.float64), mask, strict=True)]
    other = _Model(target.astype(np.float64), members, strata)
    between = np.zeros((len(own), len(own)))
    for (i, one), (j, two) in combinations(enumerate(own), 2):
        between[i, j] = between[j, i] = np.mean([transport(one.side(side), two.side(side)) for side in (True, False)])
    return Likeness(
        in_=np.array([transport(other.side(True), model.side(True)) for model in own]),
        out=np.array([transport(other.side(False), model.side(False)) for model in own]),
        peers=between.sum(1) / (len(own) - 1),
        accuracy_in=float(correct[mask].mean()),
        accuracy_out=float(correct[~mask].mean()),
    )


def strata_of(labels: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The class of each sample, or -1 for those of classes with fewer than `MIN_PER_SIDE` of both kinds, `[sample]`."""
    strata = np.full(len(labels), -1)
    for label in np.unique(labels):
        chosen = labels == label
        if min(members[chosen].sum(), (~members[chosen]).sum()) >= MIN_PER_SIDE:
            strata[chosen] = label
    return strata


def transport(one: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> float:
    """Wasserstein-1 distance, the mean difference quantile by quantile, in nats: its mean over strata by size of `one`.

    Args:
        one: Margins by stratum.
        other: The same; strata that only one of them has are left out.

    Returns:
        NaN where a margin is not finite.
    """
    shared = [stratum for stratum in one if stratum in other]
    if not all(np.isfinite(side[stratum]).all() for side in (one, other) for stratum in shared):
        return float("nan")
    costs = [wasserstein_distance(one[stratum], other[stratum]) for stratum in shared]
    return float(np.average(costs, weights=[len(one[stratum]) for stratum in shared]))


@dataclass(frozen=True)
class _Model:
    """Margins of one model, who is IN, and the stratum of each sample: all `[sample]`."""

    margins: np.ndarray
    trained: np.ndarray
    strata: np.ndarray

    def side(self, in_: bool) -> dict[int, np.ndarray]:
        """Margins of IN or of OUT samples by stratum."""
        chosen = self.trained if in_ else ~self.trained
        return {
            int(stratum): self.margins[chosen & (self.strata == stratum)] for stratum in np.unique(self.strata[chosen])
        }
