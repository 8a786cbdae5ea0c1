"""Compares the distributions of logit margins of shadow models and of a target."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import wasserstein_distance

MIN_PER_SIDE = 20
"""Smallest number of public members, and of non-members, for which a class is compared on its own."""


@dataclass(frozen=True)
class Likeness:
    """Distances in nats of the models of one recipe from the target and from each other.

    Attributes:
        in_: Distance of each model's IN margins from the target's on members, `[model]`.
        out: Distance of each model's OUT margins from the target's on non-members, `[model]`.
        peers: Mean distance of each model from the recipe's other models, averaged over IN and OUT, `[model]`.
        accuracy_in: Accuracy on IN samples, averaged over models.
        accuracy_out: Accuracy on OUT samples, averaged over models.
    """

    in_: np.ndarray
    out: np.ndarray
    peers: np.ndarray
    accuracy_in: float
    accuracy_out: float

    @property
    def distances(self) -> np.ndarray:
        """Distance of each model from the target, averaged over IN and OUT, `[model]`."""
        return (self.in_ + self.out) / 2

    @property
    def energy_scores(self) -> np.ndarray:
        """Terms of the target's energy score, `[model]`: each model's distance minus half of that from its peers.

        The distance alone would favour recipes whose models are all alike and lie between those of others. The expected
        energy score is smallest for the recipe that trained the target (Gneiting and Raftery, 2007), since the
        Wasserstein-1 distance on the line is of negative type.
        """
        return self.distances - self.peers / 2

    @property
    def energy_score(self) -> float:
        """Mean energy score over models; NaN if a model diverged."""
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
        members: Whether the target was trained on each sample, bool `[sample]`.
        phi: The models' margins in nats, `[model, sample]`, of at least two models.
        mask: Membership masks of the models, bool `[model, sample]`.
        correct: Whether the models' predictions are correct, bool `[model, sample]`.
        labels: Labels, int `[sample]`.
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
    """Stratum of each sample, `[sample]`: its class, or -1 if the class has under `MIN_PER_SIDE` members or others."""
    strata = np.full(len(labels), -1)
    for label in np.unique(labels):
        chosen = labels == label
        if min(members[chosen].sum(), (~members[chosen]).sum()) >= MIN_PER_SIDE:
            strata[chosen] = label
    return strata


def transport(one: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> float:
    """Computes the Wasserstein-1 distance in nats, averaged over strata with weights by the size of `one`.

    Args:
        one: Margins by stratum.
        other: Margins by stratum; strata that only one side has are ignored.

    Returns:
        Mean distance; NaN if a margin is not finite.
    """
    shared = [stratum for stratum in one if stratum in other]
    if not all(np.isfinite(side[stratum]).all() for side in (one, other) for stratum in shared):
        return float("nan")
    costs = [wasserstein_distance(one[stratum], other[stratum]) for stratum in shared]
    return float(np.average(costs, weights=[len(one[stratum]) for stratum in shared]))


@dataclass(frozen=True)
class _Model:
    """Margins of one model, its membership mask, and the stratum of each sample, all `[sample]`."""

    margins: np.ndarray
    trained: np.ndarray
    strata: np.ndarray

    def side(self, in_: bool) -> dict[int, np.ndarray]:
        """Margins of IN or of OUT samples by stratum."""
        chosen = self.trained if in_ else ~self.trained
        return {
            int(stratum): self.margins[chosen & (self.strata == stratum)] for stratum in np.unique(self.strata[chosen])
        }
