"""95 % intervals of proportions, means and bootstrap replicates."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import betaincinv, stdtrit

LEVEL = 0.95
"""Confidence of every interval."""


@dataclass(frozen=True)
class Estimate:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """Exact 95 % interval of a binomial proportion (Clopper and Pearson, 1934).

    >>> [round(end, 3) for end in clopper_pearson(5, 100)]
    [0.016, 0.113]
    """
    outside = (1 - LEVEL) / 2
    low = betaincinv(successes, trials - successes + 1, outside) if successes > 0 else 0.0
    high = betaincinv(successes + 1, trials - successes, 1 - outside) if successes < trials else 1.0
    return float(low), float(high)


def student_quantile(count: int) -> float:
    """Half the width of the interval for the mean of `count` values, in standard errors, by Student's distribution.

    >>> round(student_quantile(16), 2)
    2.13
    """
    return float(stdtrit(count - 1, (1 + LEVEL) / 2))


def next_target(mean: float, spread: float, targets: int, share: float = 1.0) -> Estimate:
    """Student's 95 % prediction interval for the figure of one more target of the same kind.

    Args:
        mean: Mean of the figure over the targets so far.
        spread: Standard deviation of the figure over them.
        targets: Number of targets so far, at least 2.
        share: Number of samples of the next target, relative to theirs. With fewer samples the interval is wider, as if
            the whole standard deviation came from sampling. Part of it comes from the targets themselves and does not
            grow, so the interval is conservative.
    """
    reach = student_quantile(targets) * spread * np.sqrt(1 / share + 1 / targets)
    return Estimate(mean, max(0.0, mean - reach), min(1.0, mean + reach))


def percentile_estimate(value: float, replicates: Float[np.ndarray, " replicate"]) -> Estimate:
    """An estimate with the percentiles of its bootstrap replicates as the interval."""
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def widen_at_edges(estimate: Estimate, trials: int) -> Estimate:
    """Joins the interval of a share of 0 or 1 with that of Clopper and Pearson; leaves those of others as they are."""
    if 0 < estimate.value < 1:
        return estimate
    low, high = clopper_pearson(round(estimate.value * trials), trials)
    return Estimate(estimate.value, min(low, estimate.low), max(high, estimate.high))
