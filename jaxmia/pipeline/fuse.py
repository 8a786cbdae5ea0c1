"""Fuses the scores of several runs against one target, each with shadow models of its own recipe."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from jaxmia.attacks.fusion import mean_rank
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.evaluation.epsilon import EpsilonBound, epsilon_bound, unfair_coin
from jaxmia.files import load_npz, save_npz
from jaxmia.pipeline.scoring import submit_private
from jaxmia.pipeline.summary import (
    figures_of_classes,
    public_figures,
    write_samples,
)
from jaxmia.runs.metrics import FusedRun, RunMetrics, part_name
from jaxmia.runs.rundir import RunDir

logger = logging.getLogger(__name__)

FUSION = "fusion"
_NO_ESTIMATE = "fused runs may share masks, so their shadows cannot serve as pseudo-targets"


@dataclass(frozen=True)
class ScoredRun:
    """A scored run.

    Attributes:
        path: Run directory.
        pool: Pool of the run, without images.
        metrics: Contents of its `metrics.json`.
        score: Scores of the run's submitted attack, float64 `[sample]`; higher means member, NaN for samples of fixed
            membership.
        parts: Scores of the runs that were fused into this one; empty for other runs.
    """

    path: Path
    pool: Pool
    metrics: RunMetrics
    score: np.ndarray
    parts: tuple[np.ndarray, ...] = ()


def fuse(out: Path, runs: Sequence[Path]) -> RunMetrics:
    """Fuses scored runs by the mean rank of each sample over the runs' submitted attacks.

    Each run keeps its own statistics and its own attack. Weights are equal, since weights fitted to the public labels
    would bias the figures on the public samples. There is no estimate for the private samples: runs with one seed share
    masks, so a shadow model of one cannot be a pseudo-target for another.

    Args:
        out: Directory for `pool.npz`, `scores.npz`, `samples.csv`, `submission.csv` and `metrics.json`.
        runs: At least two run directories with the same samples.

    Returns:
        Contents of `metrics.json`.

    Raises:
        InputError: There are fewer than two runs, a run is repeated or is `out`, lacks a file, or differs from the
            first in its samples or false positive rate.
    """
    _refuse_repeats(out, runs)
    scored = [read_scored(run) for run in runs]
    for run in scored[1:]:
        _refuse_other_samples(scored[0], run)
    for one, other in combinations(scored, 2):
        _warn_of_shared_scores(one, other)
    pool, fpr = scored[0].pool, scored[0].metrics.fpr
    fused = _mean_rank_of_scored([run.score for run in scored])
    scores = {FUSION: fused, **{part_name(place): run.score for place, run in enumerate(scored, start=1)}}
    pool.save(RunDir(out).pool)
    save_npz(RunDir(out).scores, scores)
    write_samples(RunDir(out).samples, pool, fused, {}, scores)
    free = ~np.isnan(fused)
    everyone, pool, fused = len(pool), pool.take(free), fused[free]
    public = public_figures(pool, fused, fpr)
    matched = any(run.metrics.matched for run in scored)
    metrics = RunMetrics(
        attack=FUSION,
        attack_record=None,
        fpr=fpr,
        models=0,
        missing=(),
        diverged=(),
        samples=everyone,
        fixed=everyone - len(pool),
        shadow_accuracy=None,
        misalignment=None,
        unlike_shadows=False,
        matched=matched,
        selection=None,
        private=None,
        no_estimate=None if pool.public.all() else _NO_ESTIMATE,
        public=public,
        public_by_class=figures_of_classes(pool, fused, fpr) if public else None,
        epsilon=_epsilon(scored, pool, fused),
        vulnerable=(),
        fused=tuple(FusedRun(run=str(run.path), attack=run.metrics.attack) for run in scored),
    )
    metrics.write(out)
    submit_private(out, pool, fused)
    return metrics


def read_scored(run: Path) -> ScoredRun:
    """Reads a run directory that `jaxmia score` has scored.

    Raises:
        InputError: `metrics.json`, `pool.npz` or `scores.npz` is missing, damaged, or inconsistent with the others.
    """
    metrics = RunMetrics.read(run)
    pool = Pool.load(RunDir(run).pool)
    parts = tuple(part_name(place) for place in range(1, len(metrics.fused) + 1))
    scores = load_npz(RunDir(run).scores, required=(metrics.attack,), only=(metrics.attack, *parts))
    score = scores[metrics.attack]
    if score.dtype.kind != "f" or score.shape != (len(pool),):
        raise InputError(
            f"{RunDir(run).scores}: {metrics.attack} is {score.dtype} {list(score.shape)}, expected {len(pool)} numbers"
        )
    return ScoredRun(run, pool, metrics, score, tuple(scores[part] for part in parts if part in scores))


def _mean_rank_of_scored(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Mean rank among the samples that have a score, `[sample]`; NaN for the others, which are the same in all runs."""
    free = ~np.isnan(scores[0])
    fused = np.full(len(free), np.nan)
    fused[free] = mean_rank([score[free] for score in scores])
    return fused


def _epsilon(scored: Sequence[ScoredRun], pool: Pool, fused: np.ndarray) -> EpsilonBound:
    """The bound on epsilon of the fused scores, `[sample]` of `pool`; the coin is that of all public samples."""
    delta, confidence = scored[0].metrics.epsilon.delta, scored[0].metrics.epsilon.confidence
    if reason := unfair_coin(scored[0].pool.membership) or _why_no_bound(scored):
        return EpsilonBound(None, delta, confidence, reason)
    matched = any(run.metrics.matched for run in scored)
    return epsilon_bound(fused, pool.membership, delta, confidence, matched=matched)


def _why_no_bound(scored: Sequence[ScoredRun]) -> str | None:
    if any(run.metrics.audit for run in scored):
        return (
            "audits are among the fused runs; their scores depend on the memberships of other samples, which the bound "
            "does not allow"
        )
    if len({(run.metrics.epsilon.delta, run.metrics.epsilon.confidence) for run in scored}) > 1:
        return (
            "the fused runs have bounds at different deltas or confidences; score them again with the same "
            "--attack.epsilon_delta and --attack.epsilon_confidence"
        )
    return None


def _refuse_repeats(out: Path, runs: Sequence[Path]) -> None:
    if len(runs) < 2:
        raise InputError(f"runs: got {len(runs)}, expected at least two to fuse")
    seen: set[Path] = {out.resolve()}
    for run in runs:
        if run.resolve() in seen:
            raise InputError(f"{run}: given more than once among --out and the runs; use different directories")
        seen.add(run.resolve())


def _refuse_other_samples(first: ScoredRun, other: ScoredRun) -> None:
    for name in ("ids", "labels", "membership"):
        if not np.array_equal(getattr(first.pool, name), getattr(other.pool, name)):
            raise InputError(f"{RunDir(other.path).pool}: {name} differ from those of {RunDir(first.path).pool}")
    if not np.array_equal(np.isnan(first.score), np.isnan(other.score)):
        raise InputError(
            f"{RunDir(other.path).scores}: other memberships are fixed than in {RunDir(first.path).scores}; "
            "fuse runs with the same seed and shadow.known"
        )
    if other.metrics.fpr != first.metrics.fpr:
        raise InputError(
            f"{RunDir(other.path).metrics}: fpr: {other.metrics.fpr} differs from {first.metrics.fpr} of "
            f"{RunDir(first.path).metrics}; score one of them again with --attack.fpr"
        )


def _warn_of_shared_scores(one: ScoredRun, other: ScoredRun) -> None:
    """Warns of two runs of which one counts twice."""
    if np.array_equal(one.score, other.score, equal_nan=True):
        logger.warning(f"{other.path}: has the same scores as {one.path}, so that these count twice")
        return
    shared = (
        np.array_equal(mine, theirs, equal_nan=True)
        for mine in (one.score, *one.parts)
        for theirs in (other.score, *other.parts)
    )
    if any(shared):
        logger.warning(f"{other.path}: has a run in common with {one.path}, which counts twice")
