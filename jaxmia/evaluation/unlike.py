"""Judges whether a target is unlike its shadows, sample by sample where memberships are fixed."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Real

from jaxmia.attacks import Evidence, misaligned, misalignment
from jaxmia.attacks.alignment import MAX_SHADOWS, max_misalignment
from jaxmia.attacks.variance import FLOOR

MIN_PER_SIDE = 20
"""Smallest number of members, and also of non-members, on which models are compared sample by sample."""

PRIOR = 4.0
"""Degrees of freedom of the prior by which each sample's variance is shrunk to the mean variance of all samples."""


@dataclass(frozen=True)
class Likeness:
    """Distance of a target from its shadows.

    Attributes:
        distance: Distance in standard deviations over shadows.
        unlike: Whether fewer than about one in 10,000 targets of the shadows' recipe would be as far.
    """

    distance: float
    unlike: bool

    def __str__(self) -> str:
        return f"its logit margins are {self.distance:.1f} standard deviations from theirs"

    def warning(self, advice: str) -> str:
        """Sentence that the target is unlike its shadows, with what to do."""
        return f"target unlike its shadows: {self}, so the attack may be weaker than expected; {advice}"


def evidence_on_fixed(
    target: Real[np.ndarray, "view sample"],
    shadows: Real[np.ndarray, "model _ sample"],
    mask: Bool[np.ndarray, "model sample"],
    labels: Integer[np.ndarray, " sample"],
    free: Bool[np.ndarray, " sample"],
) -> Evidence | None:
    """Evidence in view 0 on the samples of fixed membership; None if there is none.

    Args:
        target: Margins of the target on all samples.
        shadows: Margins of the shadows, of which view 0 alone is used.
        mask: Membership masks.
        labels: Labels.
        free: Whether the membership of each sample is drawn for each shadow.
    """
    if free.all():
        return None
    fixed = ~free
    return Evidence(target[:1, fixed], shadows[:, :1][..., fixed], mask[:, fixed], labels[fixed])


def likeness_to_shadows(evidence: Evidence, fixed: Evidence | None) -> Likeness:
    """Compares the target with its shadows, by `fixed_distance` where enough memberships are fixed.

    Otherwise the median and width of its margins are compared with theirs (`jaxmia.attacks.misalignment`).

    Args:
        evidence: Margins on the samples whose membership is drawn for each shadow.
        fixed: Margins on the samples whose membership is fixed; None if there is none.
    """
    if fixed is None or not len(fixed.shadows) or _smaller_side(fixed.mask[0]) < MIN_PER_SIDE:
        return Likeness(misalignment(evidence), misaligned(evidence))
    distance, shadows = fixed_distance(fixed), _some_shadows(fixed)
    return Likeness(distance, distance > max_misalignment(len(shadows), figures=4))


def fixed_distance(fixed: Evidence) -> float:
    """Distance of the target from its shadows on samples of fixed membership, in standard deviations over shadows.

    The margin of each model on each sample is compared with those of all other models, the target among them, in units
    of their standard deviation on that sample. The mean of these differences and the logarithm of their mean size, over
    members and over non-members, are the four figures of a model. The result is the largest distance of a figure of the
    target from the shadows'. It is 0 with fewer than three shadows.

    Args:
        fixed: Margins in view 0 on the samples of fixed membership, at least one member and one non-member.
    """
    shadows = _some_shadows(fixed)
    if len(shadows) < 3:
        return 0.0
    figures = _figures(np.concatenate([fixed.target[:1], shadows]), fixed.mask[0])
    own, others = figures[0], figures[1:]
    spread = np.maximum(others.std(0, ddof=1), np.sqrt(FLOOR)) * np.sqrt(1 + 1 / len(others))
    return float((np.abs(own - others.mean(0)) / spread).max())


def _some_shadows(fixed: Evidence) -> Float[np.ndarray, "model sample"]:
    """Margins of at most `MAX_SHADOWS` shadows."""
    return fixed.shadows[:: -(-len(fixed.shadows) // MAX_SHADOWS), 0]


def _figures(
    phi: Float[np.ndarray, "model sample"], members: Bool[np.ndarray, " sample"]
) -> Float[np.ndarray, "model 4"]:
    """Level and spread of each model about all others, on members and on non-members."""
    others = len(phi) - 1
    gap = phi.astype(np.float64) - phi.mean(0, dtype=np.float64)
    scatter = np.maximum((gap**2).sum(0) - gap**2 * (1 + 1 / others), 0)  # of the others about their own mean
    gap *= 1 + 1 / others  # from the mean of the others
    figures = []
    for side in (members, ~members):
        typical = scatter[:, side].mean(1, keepdims=True) / (others - 1)
        variance = (scatter[:, side] + PRIOR * typical) / (others - 1 + PRIOR)
        z = gap[:, side] / np.sqrt(np.maximum(variance, FLOOR))
        figures += [z.mean(1), np.log(np.maximum(np.abs(z).mean(1), FLOOR))]
    return np.stack(figures, axis=1)


def _smaller_side(members: Bool[np.ndarray, " sample"]) -> int:
    return int(min(members.sum(), (~members).sum()))
