"""Aligns a target that is more or less confident than its shadows with their scale, without using labels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Real
from scipy.special import ndtr, stdtrit

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.protocol import Attack
from jaxmia.attacks.variance import FLOOR

MAX_SHADOWS = 64
"""Largest number of shadows whose distribution of margins is computed."""

MAX_MISALIGNMENT = 4.0
"""Distance in standard deviations beyond which a target is unlike its shadows, if there are many of them."""


def max_misalignment(models: int, figures: int = 2) -> float:
    """`MAX_MISALIGNMENT` for a standard deviation that is estimated from few models, as a quantile of Student's t.

    Args:
        models: Number of models.
        figures: Number of figures of which the largest distance is taken; more of them raise the limit (Bonferroni).

    >>> [round(max_misalignment(models), 1) for models in (3, 8, 32, 100_000)]
    [125.6, 8.5, 4.6, 4.0]
    """
    return float(-stdtrit(models - 1, ndtr(-MAX_MISALIGNMENT) * 2 / figures)) if models > 1 else np.inf


@dataclass(frozen=True)
class Scale:
    """Location and width of a model's margins over the samples, in nats.

    Attributes:
        median: Median, for each model and view.
        width: Interquartile range.
    """

    median: Float64[np.ndarray, "*model view"]
    width: Float64[np.ndarray, "*model view"]


def scale_of(phi: Real[np.ndarray, "*model view sample"]) -> Scale:
    """Median and interquartile range of margins over the samples, in nats."""
    low, median, high = np.quantile(np.asarray(phi, np.float64), [0.25, 0.5, 0.75], axis=-1)
    return Scale(median, np.maximum(high - low, np.sqrt(FLOOR)))


def scale_of_shadows(evidence: Evidence) -> Scale:
    """Scales of at most `MAX_SHADOWS` shadows."""
    every = max(1, -(-len(evidence.shadows) // MAX_SHADOWS))
    rows = np.reshape(evidence.of_each_shadow("scale", _median_and_width, every=every), (-1, 2, len(evidence.target)))
    return Scale(rows[:, 0], rows[:, 1])


def _median_and_width(phi: Float[np.ndarray, "view sample"]) -> Float64[np.ndarray, "2 view"]:
    scale = scale_of(phi)
    return np.stack([scale.median, scale.width])


def misalignment(evidence: Evidence) -> float:
    """Distance of the target's median or width (in view 0) from the shadows', in standard deviations over shadows.

    If it is large (`misaligned`), the target was trained by another recipe. It is 0 with fewer than three shadows.
    With folds it is the median over the folds, since rows that join several models vary less than single models.
    """
    return float(np.median([_misalignment(part) for part in evidence.by_fold()]))


def _misalignment(evidence: Evidence) -> float:
    shadows = scale_of_shadows(evidence)
    if len(shadows.median) < 3:
        return 0.0
    target = scale_of(evidence.target)
    distances = []
    for own, others in ((target.median, shadows.median), (np.log(target.width), np.log(shadows.width))):
        spread = max(float(others[:, 0].std(ddof=1)), np.sqrt(FLOOR)) * np.sqrt(1 + 1 / len(others))
        distances.append(abs(float(own[0] - others[:, 0].mean())) / spread)
    return float(max(distances))


def misaligned(evidence: Evidence) -> bool:
    """Whether the target is so far from its shadows as one of them would be in about one of 10,000 cases."""
    return misalignment(evidence) > max_misalignment(len(scale_of_shadows(evidence).median))


@dataclass(frozen=True)
class Aligned:
    """Another attack, applied after each view of the target is shifted and scaled to the shadows' typical scale.

    It assumes that the target has about as many members as a shadow.

    >>> from jaxmia.attacks import Margin
    >>> shadows = np.array([[[0.0, 1.0, 2.0]], [[0.0, 1.0, 2.0]]])
    >>> evidence = Evidence(np.array([[10.0, 30.0, 50.0]]), shadows, np.eye(2, 3, dtype=bool), np.zeros(3, int))
    >>> Aligned(Margin())(evidence)
    array([0., 1., 2.])
    """

    attack: Attack

    @property
    def name(self) -> str:
        """Name of the attack, followed by `-aligned`."""
        return f"{self.attack.name}-aligned"

    def __call__(self, evidence: Evidence) -> Float[np.ndarray, " sample"]:
        """Computes the scores; higher means member.

        Raises:
            InputError: The attack raises it.
        """
        if not len(evidence.shadows):
            return self.attack(evidence)
        own, shadows = scale_of(evidence.target), scale_of_shadows(evidence)
        stretch = np.median(shadows.width, axis=0) / own.width
        shifted = (evidence.target - own.median[:, None]) * stretch[:, None]
        return self.attack(evidence.with_target(shifted + np.median(shadows.median, axis=0)[:, None]))
