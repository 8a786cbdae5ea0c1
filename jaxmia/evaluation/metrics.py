"""Metrics of membership scores: ROC, TPR at FPR and AUC, with 95 % intervals."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer, Real

from jaxmia.errors import InputError
from jaxmia.evaluation.intervals import Estimate, clopper_pearson, percentile_estimate, widen_at_edges

FPRS = (0.05, 0.01, 0.001)
REPLICATES = 1000
CELLS_PER_BATCH = 2**20
"""Largest number of resampled counts in memory at once: 8 MiB."""


@dataclass(frozen=True)
class Roc:
    """Step ROC curve with one point for each distinct score, from (0, 0) to (1, 1).

    Attributes:
        thresholds: Thresholds from +inf down; a sample is classified as a member if `score >= threshold`.
        fpr: False positive rate.
        tpr: True positive rate.
    """

    thresholds: Float[np.ndarray, " point"]
    fpr: Float[np.ndarray, " point"]
    tpr: Float[np.ndarray, " point"]


@dataclass(frozen=True)
class TprAtFpr:
    """TPR at a limit of the FPR.

    Attributes:
        fpr: Limit of the FPR.
        threshold: Lowest threshold within the limit; None if even the highest score exceeds it.
        fixed: TPR with the Clopper-Pearson interval, which treats the threshold as fixed.
        resampled: TPR with the interval of the stratified bootstrap, which also moves the threshold. Where no member or
            every member is found, resamples vary too little, and the interval is joined with that of `fixed`.

    If the limit is below one over the number of non-members, nothing is measured and everything but `fpr` is None.
    """

    fpr: float
    threshold: float | None
    fixed: Estimate | None
    resampled: Estimate | None


@dataclass(frozen=True)
class Figures:
    """AUC and TPR at several FPRs, with the numbers of members and non-members that they were measured on.

    The interval of the AUC is that of the stratified bootstrap. At an AUC of 0 or 1, where all resamples agree, it is
    Clopper and Pearson's for as many independent pairs of a member and a non-member as the samples form.
    """

    members: int
    nonmembers: int
    auc: Estimate
    tpr: tuple[TprAtFpr, ...]

    def at(self, fpr: float) -> Estimate | None:
        """TPR at a limit of the FPR with the bootstrap interval; None if non-members are too few to measure it.

        Raises:
            InputError: It was not computed at this limit.
        """
        for entry in self.tpr:
            if entry.fpr == fpr:
                return entry.resampled
        raise InputError(f"fpr: {fpr} is none of {', '.join(f'{entry.fpr:g}' for entry in self.tpr)}")

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain numbers, strings and None for JSON."""
        return asdict(self)


def roc(scores: Real[np.ndarray, " sample"], members: Bool[np.ndarray, " sample"]) -> Roc:
    """Computes the step ROC curve of scores, where higher means member; infinite scores are allowed.

    Raises:
        InputError: A score is NaN, a membership is neither true nor false (1 or 0), shapes differ, or there are no
            members or no non-members.

    >>> curve = roc(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False]))
    >>> curve.fpr, curve.tpr
    (array([0. , 0. , 0.5, 0.5, 1. ]), array([0. , 0.5, 0.5, 1. , 1. ]))
    """
    levels, hits, alarms = _counts(scores, members)
    return Roc(
        thresholds=np.concatenate([[np.inf], levels]),
        fpr=np.concatenate([[0], np.cumsum(alarms) / alarms.sum()]),
        tpr=np.concatenate([[0], np.cumsum(hits) / hits.sum()]),
    )


def tpr_at_fpr(scores: Real[np.ndarray, " sample"], members: Bool[np.ndarray, " sample"], fpr: float) -> float:
    """Largest TPR among thresholds whose FPR is at most `fpr`.

    Raises:
        InputError: `roc` raises it, or the limit is not in [0, 1].

    >>> tpr_at_fpr(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False]), 0.05)
    0.5
    """
    if not 0 <= fpr <= 1:
        raise InputError(f"fpr: {fpr} is not between 0 and 1")
    scores, members = _checked(scores, members)
    _some_of_both(members)
    alarms = scores[~members]
    allowed = false_alarms(fpr, len(alarms))
    if allowed >= len(alarms):
        return 1.0
    # everything strictly above the first score that exceeds the limit is within it
    excess = np.partition(alarms, len(alarms) - 1 - allowed)[len(alarms) - 1 - allowed]
    return float((scores[members] > excess).mean())


def auc(scores: Real[np.ndarray, " sample"], members: Bool[np.ndarray, " sample"]) -> float:
    """Probability that a member scores higher than a non-member, a tie counting one half.

    Raises:
        InputError: `roc` raises it.

    >>> auc(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False]))
    0.75
    """
    _, hits, alarms = _counts(scores, members)
    return float(_auc(hits[None], alarms[None])[0])


def figures(
    scores: Real[np.ndarray, " sample"],
    members: Bool[np.ndarray, " sample"],
    fprs: tuple[float, ...] = FPRS,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Figures:
    """Computes AUC and TPR at each FPR with 95 % intervals.

    Args:
        scores: Scores, higher meaning member.
        members: Whether each sample is a member.
        fprs: Limits of the FPR.
        replicates: Number of bootstrap resamples, stratified by membership.
        seed: Seed of the resampling.

    Raises:
        InputError: `roc` raises it, or a limit is not between 0 and 1.

    >>> found = figures(np.arange(200.0), np.arange(200) >= 100, (0.05,), replicates=10)
    >>> found.auc.value, found.tpr[0].fixed.value, found.members
    (1.0, 1.0, 100)
    """
    for fpr in fprs:
        if not 0 < fpr < 1:
            raise InputError(f"fpr: {fpr} is not between 0 and 1")
    levels, hits, alarms = _counts(scores, members)
    measured = tuple(fpr for fpr in fprs if false_alarms(fpr, int(alarms.sum())) >= 1)
    aucs, tprs = _bootstrap(hits, alarms, measured, replicates, np.random.default_rng(seed))
    return Figures(
        members=int(hits.sum()),
        nonmembers=int(alarms.sum()),
        auc=widen_at_edges(
            percentile_estimate(float(_auc(hits[None], alarms[None])[0]), aucs), int(min(hits.sum(), alarms.sum()))
        ),
        tpr=tuple(
            _measured(fpr, levels, hits, alarms, tprs[measured.index(fpr)])
            if fpr in measured
            else TprAtFpr(fpr, None, None, None)
            for fpr in fprs
        ),
    )


def paired_difference(
    one: Real[np.ndarray, " sample"],
    other: Real[np.ndarray, " sample"],
    members: Bool[np.ndarray, " sample"],
    figure: Callable[[np.ndarray, np.ndarray], float],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Estimate:
    """Difference of a figure between two scores, with a 95 % interval by the stratified bootstrap.

    Both scores are resampled with the same members and non-members, so common variation cancels.

    Args:
        one: Scores.
        other: Scores of the same samples.
        members: True for members.
        figure: Function of scores and members, such as `auc`.
        replicates: Bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        InputError: `roc` raises it.

    >>> scores, members = np.arange(20.0), np.arange(20) >= 10
    >>> paired_difference(scores, -scores, members, auc, replicates=10)
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    rng = np.random.default_rng(seed)
    _some_of_both(members)
    sides = np.flatnonzero(members), np.flatnonzero(~members)

    def difference(chosen: np.ndarray) -> float:
        return figure(one[chosen], members[chosen]) - figure(other[chosen], members[chosen])

    drawn = [difference(np.concatenate([rng.choice(side, len(side)) for side in sides])) for _ in range(replicates)]
    return percentile_estimate(difference(np.arange(len(members))), np.array(drawn))


def figures_by_class(
    scores: Real[np.ndarray, " sample"],
    members: Bool[np.ndarray, " sample"],
    labels: Integer[np.ndarray, " sample"],
    fprs: tuple[float, ...] = FPRS,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[int, Figures | None]:
    """Computes the figures within each class, by label; None for a class without members or non-members.

    Each class has its own threshold, so these TPRs do not average to that of all classes.

    Raises:
        InputError: `figures` raises it.
    """
    scores, members = _checked(scores, members)
    result: dict[int, Figures | None] = {}
    for label in np.unique(labels):
        chosen = labels == label
        both = members[chosen].any() and not members[chosen].all()
        result[int(label)] = (
            figures(scores[chosen], members[chosen], fprs, replicates=replicates, seed=seed) if both else None
        )
    return result


def _checked(
    scores: np.ndarray, members: np.ndarray
) -> tuple[Float64[np.ndarray, " sample"], Bool[np.ndarray, " sample"]]:
    scores, members = np.asarray(scores, np.float64), np.asarray(members)
    if scores.ndim != 1 or scores.shape != members.shape:
        raise InputError(f"scores and membership: shapes {scores.shape} and {members.shape}, expected both [sample]")
    if np.isnan(scores).any():
        raise InputError(f"scores: sample {np.flatnonzero(np.isnan(scores))[0]} is nan, expected a number")
    if members.dtype == np.bool_:
        return scores, members
    strange = np.flatnonzero((members != 0) & (members != 1))
    if len(strange):
        raise InputError(
            f"membership: sample {strange[0]} is {members[strange[0]]}, expected 1 (member) or 0 (non-member); leave "
            "out samples of unknown membership"
        )
    return scores, members.astype(bool)


def _some_of_both(members: np.ndarray) -> None:
    if members.all() or not members.any():
        raise InputError(
            f"membership: {int(members.sum())} members and {int((~members).sum())} non-members, expected some of both"
        )


def _counts(
    scores: np.ndarray, members: np.ndarray
) -> tuple[Float64[np.ndarray, " level"], Integer[np.ndarray, " level"], Integer[np.ndarray, " level"]]:
    """Distinct scores in descending order, with their numbers of members and non-members."""
    scores, members = _checked(scores, members)
    _some_of_both(members)
    order = np.argsort(-scores)
    ordered = scores[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    hits = np.add.reduceat(members[order].astype(np.int64), first)
    return ordered[first], hits, np.diff(np.append(first, len(scores))) - hits


def _within(alarms: Integer[np.ndarray, "replicate level"], fpr: float) -> Integer[np.ndarray, " replicate"]:
    """Number of distinct scores, from the highest down, that stay within the limit, for each replicate."""
    return (np.cumsum(alarms, 1) <= false_alarms(fpr, int(alarms[0].sum()))).sum(1)


def false_alarms(fpr: float, nonmembers: int) -> int:
    """Number of false positives that a limit of the FPR allows; 0.07 of 100 is 7 despite rounding.

    If it allows none, a TPR at that limit means little, since the single highest non-member decides it.
    """
    return int(np.floor(fpr * nonmembers * (1 + 1e-12)))


def _tpr(
    hits: Integer[np.ndarray, "replicate level"], alarms: Integer[np.ndarray, "replicate level"], fpr: float
) -> Float[np.ndarray, " replicate"]:
    """TPR at FPR of each replicate; counts are ordered from the highest score down."""
    found = np.concatenate([np.zeros((len(hits), 1), hits.dtype), np.cumsum(hits, 1)], axis=1)
    return found[np.arange(len(hits)), _within(alarms, fpr)] / found[:, -1]


def _auc(
    hits: Integer[np.ndarray, "replicate level"], alarms: Integer[np.ndarray, "replicate level"]
) -> Float[np.ndarray, " replicate"]:
    """AUC of each replicate; counts are ordered from the highest score down."""
    found = np.cumsum(hits, 1)
    return (alarms * (found - hits / 2)).sum(1) / (alarms.sum(1) * found[:, -1])


def _bootstrap(
    hits: Integer[np.ndarray, " level"],
    alarms: Integer[np.ndarray, " level"],
    fprs: tuple[float, ...],
    replicates: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, " replicate"], Float[np.ndarray, "fpr replicate"]]:
    """AUCs and TPRs of resampled members and non-members."""
    aucs, tprs = [], []
    batch = max(1, CELLS_PER_BATCH // len(hits))
    for start in range(0, replicates, batch):
        rows = min(batch, replicates - start)
        some_hits, some_alarms = _resample(hits, rows, rng), _resample(alarms, rows, rng)
        aucs.append(_auc(some_hits, some_alarms))
        tprs.append(np.reshape([_tpr(some_hits, some_alarms, fpr) for fpr in fprs], (len(fprs), rows)))
    return np.concatenate(aucs), np.concatenate(tprs, axis=1)


def _resample(
    counts: Integer[np.ndarray, " level"], rows: int, rng: np.random.Generator
) -> Integer[np.ndarray, "replicate level"]:
    """Draws as many samples as there are, with replacement, `rows` times, and counts them by score."""
    of_sample = np.repeat(np.arange(len(counts)), counts)
    drawn = of_sample[rng.integers(len(of_sample), size=(rows, len(of_sample)))]
    drawn += np.arange(rows)[:, None] * len(counts)
    return np.bincount(drawn.ravel(), minlength=rows * len(counts)).reshape(rows, len(counts))


def _measured(
    fpr: float,
    levels: Float[np.ndarray, " level"],
    hits: Integer[np.ndarray, " level"],
    alarms: Integer[np.ndarray, " level"],
    replicates: Float[np.ndarray, " replicate"],
) -> TprAtFpr:
    within = int(_within(alarms[None], fpr)[0])
    found, total = int(hits[:within].sum()), int(hits.sum())
    threshold = float(levels[within - 1]) if within else None
    return TprAtFpr(
        fpr=fpr,
        threshold=threshold if threshold is not None and np.isfinite(threshold) else None,
        fixed=Estimate(found / total, *clopper_pearson(found, total)),
        resampled=widen_at_edges(percentile_estimate(found / total, replicates), total),
    )
