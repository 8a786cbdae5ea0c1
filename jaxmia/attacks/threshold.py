"""Thresholds on the target alone, without shadow models (Yeom et al., 2018, arXiv:1709.01604)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.moments import log_probability


@dataclass(frozen=True)
class Loss:
    """Minus the cross-entropy, `log p_y`, in nats, averaged over the views.

    >>> none = np.zeros((0, 1, 2)), np.zeros((0, 2), bool)
    >>> evidence = Evidence(np.array([[0.0, 100.0]]), *none, np.array([0, 1]))
    >>> Loss()(evidence).round(3) + 0
    array([-0.693,  0.   ])
    """

    @property
    def name(self) -> str:
        """`loss`."""
        return "loss"

    def __call__(self, evidence: Evidence) -> Float[np.ndarray, " sample"]:
        """Computes the scores; higher means member."""
        return log_probability(evidence.target).mean(0)


@dataclass(frozen=True)
class Confidence:
    """The probability of the label, averaged over the views.

    >>> none = np.zeros((0, 1, 2)), np.zeros((0, 2), bool)
    >>> evidence = Evidence(np.array([[0.0, 100.0]]), *none, np.array([0, 1]))
    >>> Confidence()(evidence)
    array([0.5, 1. ])
    """

    @property
    def name(self) -> str:
        """`confidence`."""
        return "confidence"

    def __call__(self, evidence: Evidence) -> Float[np.ndarray, " sample"]:
        """Computes the scores; higher means member."""
        return np.exp(log_probability(evidence.target)).mean(0)


@dataclass(frozen=True)
class Margin:
    """The logit margin in nats, averaged over the views; it still ranks samples whose confidence rounds to 1.

    >>> none = np.zeros((0, 1, 2)), np.zeros((0, 2), bool)
    >>> evidence = Evidence(np.array([[0.0, 100.0]]), *none, np.array([0, 1]))
    >>> Margin()(evidence)
    array([  0., 100.])
    """

    @property
    def name(self) -> str:
        """`margin`."""
        return "margin"

    def __call__(self, evidence: Evidence) -> Float[np.ndarray, " sample"]:
        """Computes the scores; higher means member."""
        return evidence.target.mean(0)
