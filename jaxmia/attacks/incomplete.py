"""Scores for the few samples that chance left without an IN or without an OUT model."""

import numpy as np

from jaxmia.attacks.adaptive import Adaptive
from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.protocol import Attack, scores_of
from jaxmia.errors import MissingModels

MAX_INCOMPLETE = 0.05
"""Share of samples up to which those that lack a side are no reason to do without an attack."""


def lacking(evidence: Evidence) -> np.ndarray:
    """Whether a sample has no IN or no OUT model, bool `[sample]`."""
    in_, out = evidence.sides
    return (in_.count == 0) | (out.count == 0)


def score_all(attack: Attack, evidence: Evidence) -> np.ndarray:
    """Scores every sample, `[sample]`, also where a few lack a side that the attack needs.

    Those get the place among the others that `adaptive` gives them, which scores them by its prior. The others' scores
    are what they are without them.

    Raises:
        InputError: As the attack, where more than a twentieth of the samples lack a side; or its scores are not one
            number a sample.
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
