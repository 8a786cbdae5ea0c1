"""Prior for the gap between IN and OUT means, fitted to all samples."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

COMPONENTS = 4
ITERATIONS = 40
SMALLEST = 1e-4
"""Smallest variance of a component, in units of the samples' variance."""

MAX_SAMPLES = 1000
"""Largest number of samples used for the fit; more would not change it noticeably."""


@dataclass(frozen=True)
class GapPrior:
    """Mixture of Gaussians for the gap `mean_in - mean_out`, in standard deviations of the sample.

    Attributes:
        weight: Weights, which sum to 1.
        mean: Means.
        variance: Variances.
    """

    weight: Float[np.ndarray, " component"]
    mean: Float[np.ndarray, " component"]
    variance: Float[np.ndarray, " component"]

    def posterior(
        self, gap: Float[np.ndarray, " sample"], precision: Float[np.ndarray, " sample"]
    ) -> tuple[
        Float[np.ndarray, "component sample"],
        Float[np.ndarray, "component sample"],
        Float[np.ndarray, "component sample"],
    ]:
        """Posterior of each sample's gap, given a measurement with Gaussian error.

        Args:
            gap: Measured gaps.
            precision: Reciprocal of the error's variance, 0 for samples without a measurement.

        Returns:
            Log-weight, mean and variance of each component.
        """
        mean, variance = self.mean[:, None], self.variance[:, None]
        prior = 1 / variance
        total = prior + precision
        # the measured gap has variance `1 / precision + variance`; a common factor of all components is left out
        precision_of_gap = precision / (1 + precision * variance)
        log_weight = np.log(self.weight)[:, None] - 0.5 * (
            (gap - mean) ** 2 * precision_of_gap + np.log1p(precision * variance)
        )
        log_weight -= log_sum_exp(log_weight)
        return log_weight, (prior * mean + precision * gap) / total, 1 / total


def log_sum_exp(x: Float[np.ndarray, " component *rest"]) -> Float[np.ndarray, "*rest"]:
    """`log(sum(exp(x)))` over the first axis; values must be finite."""
    top = x.max(0)
    return top + np.log(np.exp(x - top).sum(0))


def fit_gap(gap: Float[np.ndarray, " sample"], precision: Float[np.ndarray, " sample"]) -> GapPrior:
    """Fits the mixture to gaps measured with known errors, by expectation-maximisation.

    The mixture describes the gaps without the errors ("extreme deconvolution", Bovy, Hogg and Roweis, 2011,
    arXiv:0905.2979).

    Args:
        gap: Measured gaps in standard deviations.
        precision: Reciprocal of the error's variance, above 0.

    Returns:
        The prior; all of its mass is at 0 if nothing was measured.
    """
    if not len(gap):
        return GapPrior(np.ones(1), np.zeros(1), np.full(1, SMALLEST))
    stride = -(-len(gap) // MAX_SAMPLES)
    gap, precision = gap[::stride], precision[::stride]
    spread = max(gap.var() - (1 / precision).mean(), 0.01)
    mixture = GapPrior(
        weight=np.full(COMPONENTS, 1 / COMPONENTS),
        mean=gap.mean() + np.sqrt(spread) * np.linspace(-1, 2, COMPONENTS),
        variance=np.full(COMPONENTS, spread),
    )
    for _ in range(ITERATIONS):
        log_weight, mean, variance = mixture.posterior(gap, precision)
        weight = np.exp(log_weight)
        total = weight.sum(1) + 1e-9
        center = (weight * mean).sum(1) / total
        width = (weight * ((mean - center[:, None]) ** 2 + variance)).sum(1) / total
        # avoids a division by zero if a component vanishes or shrinks to a point
        mixture = GapPrior(total / total.sum(), center, np.maximum(width, SMALLEST))
    return mixture
