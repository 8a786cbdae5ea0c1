"""Probability that a sample is a member, calibrated on pseudo-targets."""

import numpy as np
from jaxtyping import Float

from jaxmia.attacks import Adaptive, Aligned, Evidence
from jaxmia.evaluation.unlike import likeness_to_shadows

TARGETS = 32
"""Largest number of pseudo-targets."""

LEAST = 0.15
"""Smallest probability of being a member or a non-member: every sample needs IN and OUT models, and scores may err."""


def membership_chances(evidence: Evidence, fixed: Evidence | None = None) -> Float[np.ndarray, " sample"]:
    """Probability that each sample is a member of the target, between `LEAST` and 1 - `LEAST`.

    Scores of `adaptive` are mapped to probabilities by isotonic regression of membership on the scores of
    pseudo-targets. Apart from fixed memberships, no membership of the target is used.

    Args:
        evidence: Margins of the target, and of shadows whose members were drawn independently.
        fixed: Their margins on samples of fixed membership, as in `likeness_to_shadows`.

    Raises:
        MissingModels: No sample has both IN and OUT models.
    """
    from scipy.optimize import isotonic_regression  # slow to import, and only second rounds need it

    attack = Adaptive("fisher" if len(evidence.target) > 1 else "mean")
    played = list(evidence.pseudo_targets(range(min(TARGETS, len(evidence.shadows)))))
    scores = np.concatenate([attack(against) for against, _ in played])
    members = np.concatenate([known for _, known in played])
    levels, place = np.unique(scores, return_inverse=True)
    counts = np.bincount(place)
    shares = isotonic_regression(np.bincount(place, members) / counts, weights=counts).x
    own = (Aligned(attack) if likeness_to_shadows(evidence, fixed).unlike else attack)(evidence)
    return np.clip(np.interp(own, levels, shares), LEAST, 1 - LEAST)
