"""Scores for the few samples that by chance have no IN or no OUT model."""

import numpy as np
from jaxtyping import Bool, Float64

from jaxmia.attacks.adaptive import Adaptive
from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.protocol import Attack, scores_of
from jaxmia.errors import MissingModels

MAX_INCOMPLETE = 0.05
"""Largest fraction of samples without IN or OUT models for which an attack is still used."""


def lacking(evidence: Evidence) -> Bool[np.ndarray, " sample"]:
    """Whether each sample has no IN or no OUT model."""
    in_, out = evidence.sides
    return (in_.count == 0) | (out.count == 0)


def score_all(attack: Attack, evidence: Evidence) -> Float64[np.ndarray, " sample"]:
    """Scores every sample, even if a few lack the IN or OUT models that the attack needs.

    These few are ranked among the other samples by `adaptive`, which scores them by its prior. They do not affect the
    scores of the others.

    Raises:
        InputError: More than a twentieth of the samples lack models that the attack needs, or its scores are not one
            number per sample.
    """
    lack = lacking(evidence)
    try:
        return scores_of(attack, evidence)
    except MissingModels:
        if not 0 < lack.mean() <= MAX_INCOMPLETE:
            raise
    own = scores_of(attack, evidence.take(np.flatnonzero(~lack)))
    prior = Adaptive()(evidence)
    others = np.sort(prior[~lack])
    below, up_to = (np.searchsorted(others, prior[lack], side) for side in ("left", "right"))
    scores = np.empty(len(lack))
    scores[~lack] = own
    scores[lack] = np.quantile(own, (below + up_to) / (2 * len(others)))
    return scores
