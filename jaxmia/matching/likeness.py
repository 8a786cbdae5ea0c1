"""Compares the logit margins of shadow models with a target's, sample by sample."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class RecipeDistances:
    """Distances in nats of the models of one recipe from the target and from each other.

    Attributes:
        in_: Distance of each model's margins from the target's on members that it was trained on.
        out: Distance of each model's margins from the target's on non-members that it was not trained on.
        peers: Mean distance of each model from the recipe's other models, averaged over IN and OUT.
        accuracy_in: Accuracy on IN samples, averaged over models.
        accuracy_out: Accuracy on OUT samples, averaged over models.
    """

    in_: Float[np.ndarray, " model"]
    out: Float[np.ndarray, " model"]
    peers: Float[np.ndarray, " model"]
    accuracy_in: float
    accuracy_out: float

    @property
    def distances(self) -> Float[np.ndarray, " model"]:
        """Distance of each model from the target, averaged over IN and OUT."""
        return (self.in_ + self.out) / 2

    @property
    def energy_scores(self) -> Float[np.ndarray, " model"]:
        """Terms of the target's energy score: each model's distance minus half of that from its peers.

        The distance alone would favour recipes whose models are all alike and lie between those of others. The expected
        energy score is smallest for the recipe that trained the target (Gneiting and Raftery, 2007). Averaged over
        models, each sample's share of it is the continuous ranked probability score of the target's margin on that
        sample.
        """
        return self.distances - self.peers / 2

    @property
    def energy_score(self) -> float:
        """Mean energy score over models; NaN if a model diverged."""
        return float(self.energy_scores.mean())


def recipe_distances(
    target: Float[np.ndarray, " sample"],
    members: Bool[np.ndarray, " sample"],
    phi: Float[np.ndarray, "model sample"],
    mask: Bool[np.ndarray, "model sample"],
    correct: Bool[np.ndarray, "model sample"],
) -> RecipeDistances:
    """Compares models of one recipe with the target, each on the samples on which both were trained or neither was.

    Args:
        target: The target's margins in nats.
        members: Whether the target was trained on each sample.
        phi: The models' margins in nats, of at least two models.
        mask: Membership masks of the models; the more they agree with `members`, the better the comparison.
        correct: Whether the models' predictions are correct.
    """
    phi, same = phi.astype(np.float64), mask == members
    sides = same & members, same & ~members
    between = np.zeros((len(phi), len(phi)))
    for i, j in combinations(range(len(phi)), 2):
        between[i, j] = between[j, i] = np.mean([mean_gap(phi[i], phi[j], side[i] & side[j]) for side in sides])
    in_, out = (
        np.array([mean_gap(margins, target, chosen) for margins, chosen in zip(phi, side, strict=True)])
        for side in sides
    )
    return RecipeDistances(
        in_=in_,
        out=out,
        peers=between.sum(1) / (len(phi) - 1),
        accuracy_in=float(correct[mask].mean()),
        accuracy_out=float(correct[~mask].mean()),
    )


def mean_gap(
    one: Float[np.ndarray, " sample"], other: Float[np.ndarray, " sample"], chosen: Bool[np.ndarray, " sample"]
) -> float:
    """Mean absolute difference of two models' margins on the chosen samples, in nats.

    Args:
        one: Margins of one model.
        other: Margins of the other model.
        chosen: Whether to compare each sample.

    Returns:
        The mean; NaN if there is none to compare or a margin is not finite.
    """
    one, other = one[chosen], other[chosen]
    finite = len(one) and np.isfinite(one).all() and np.isfinite(other).all()
    return float(np.abs(one - other).mean()) if finite else float("nan")
