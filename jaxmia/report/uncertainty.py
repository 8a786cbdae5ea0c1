"""Bootstrap and Student intervals for the report."""

from collections.abc import Sequence

import numpy as np

from jaxmia.evaluation.intervals import LEVEL, Estimate, student_quantile, widen_at_edges
from jaxmia.evaluation.metrics import false_alarms

REPLICATES = 4000


def tpr_band(
    scores: np.ndarray,
    members: np.ndarray,
    fprs: Sequence[float] | np.ndarray,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Estimate]:
    """TPR at each FPR with the interval of the stratified bootstrap, which also moves the threshold.

    Where no member or every member is found, it is joined with the interval of Clopper and Pearson, as in
    `jaxmia.evaluation.metrics.figures`.

    The k-th highest of n resampled non-members is the non-member whose rank is given by the k-th smallest of n uniform
    numbers, which follows Beta(k, n + 1 - k). The number of resampled members above it is then binomial. Scores are
    sorted only once, so a whole ROC curve costs no more than one resample.

    Args:
        scores: Scores, higher meaning member, `[sample]`.
        members: Whether each sample is a member, bool `[sample]`; both kinds must occur.
        fprs: Limits of the FPR, each in (0, 1].
        replicates: Number of bootstrap resamples.
        seed: Seed of the resampling.
    """
    rng = np.random.default_rng(seed)
    alarms, hits = _sorted_by_kind(scores, members)
    found = []
    allowances = _allowed(alarms, fprs)
    for allowed, value in zip(allowances, _tprs(alarms, hits, allowances), strict=True):
        if allowed >= len(alarms):
            found.append(Estimate(1.0, 1.0, 1.0))
            continue
        place = rng.beta(allowed + 1, len(alarms) - allowed, replicates)
        thresholds = alarms[np.minimum((place * len(alarms)).astype(int), len(alarms) - 1)]
        drawn = rng.binomial(len(hits), _share_above(hits, thresholds)) / len(hits)
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        found.append(widen_at_edges(Estimate(float(value), float(low), float(high)), len(hits)))
    return found


def tpr_curve(scores: np.ndarray, members: np.ndarray, fprs: Sequence[float] | np.ndarray) -> np.ndarray:
    """TPR at each FPR, `[fpr]`, without the intervals of `tpr_band`; its arguments are the same."""
    alarms, hits = _sorted_by_kind(scores, members)
    return _tprs(alarms, hits, _allowed(alarms, fprs))


def mean_of(values: np.ndarray) -> Estimate:
    """Mean of two or more values with its Student interval, clipped to [0, 1]."""
    reach = student_quantile(len(values)) * values.std(ddof=1) / np.sqrt(len(values))
    return Estimate(
        float(values.mean()), max(0.0, float(values.mean() - reach)), min(1.0, float(values.mean() + reach))
    )


def _sorted_by_kind(scores: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of non-members, highest first, and of members, lowest first."""
    return np.sort(scores[~members])[::-1], np.sort(scores[members])


def _allowed(alarms: np.ndarray, fprs: Sequence[float] | np.ndarray) -> np.ndarray:
    """Number of false alarms that each FPR allows, `[fpr]`."""
    return np.array([false_alarms(fpr, len(alarms)) for fpr in fprs])


def _tprs(alarms: np.ndarray, hits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """TPR for each number of allowed false alarms, `[fpr]`, of scores sorted by kind."""
    within = _share_above(hits, alarms[np.minimum(allowed, len(alarms) - 1)])
    return np.where(allowed < len(alarms), within, 1.0)


def _share_above(ordered: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return 1 - np.searchsorted(ordered, thresholds, side="right") / len(ordered)
