"""Computes membership scores, a submission and its figures from matrices of logit margins."""

import logging
from pathlib import Path

import numpy as np

from jaxmia.attacks import Attack, Evidence, lacking, sample_fits, score_all
from jaxmia.attacks.catalogue import distinct_attacks
from jaxmia.attacks.record import record_attack
from jaxmia.config import AttackConfig, load_config
from jaxmia.data.pool import Pool
from jaxmia.errors import InvalidScores, MissingModels, NoPseudoTargets
from jaxmia.evaluation.epsilon import EpsilonBound, epsilon_bound, unfair_coin
from jaxmia.evaluation.selection import Selection, configured_attacks, select, select_attack
from jaxmia.evaluation.unlike import Likeness, likeness_to_shadows
from jaxmia.files import save_npz
from jaxmia.leaderboard.submission import to_unit_interval, write_submission
from jaxmia.pipeline.summary import (
    figures_of_classes,
    most_vulnerable,
    private_estimate,
    public_figures,
    write_samples,
)
from jaxmia.runs.matrices import ROUND, Matrices, read_matrices
from jaxmia.runs.metrics import (
    AuditSummary,
    PrivateEstimate,
    RunMetrics,
    SelectionSummary,
    ShadowAccuracy,
)
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.status import enough, missing_models, ranges
from jaxmia.runs.store import Chunk

logger = logging.getLogger(__name__)

_NOT_COMPARABLE = (NoPseudoTargets, MissingModels, InvalidScores)
"""Errors for which a run is scored without figures on pseudo-targets, or without a bound on epsilon."""


def score(out: Path, section: AttackConfig) -> RunMetrics:
    """Writes `scores.npz`, `samples.csv`, `submission.csv` (where there are private samples) and `metrics.json`.

    Args:
        out: Run directory.
        section: Configuration of the attack and of its false positive rate.

    Returns:
        Contents of `metrics.json`.

    Raises:
        InputError: A file is missing or invalid, the attack is unknown, or there are too few models for it.
    """
    named, candidates = configured_attacks(section)
    matrices = read_matrices(out)
    missing = _log_missing(out, matrices.shadows)
    comparable = matrices.pseudo_target_evidence
    likeness = likeness_to_shadows(comparable, matrices.fixed)
    selection = None if named else select_attack(comparable, section, candidates, likeness)
    chosen = selection.chosen if selection else named
    assert chosen is not None
    scores = {chosen.name: score_all(chosen, matrices.evidence)}
    left_out: dict[str, MissingModels] = {}
    for attack in (*distinct_attacks(matrices.evidence), *candidates):
        if attack.name not in scores:
            try:
                scores[attack.name] = score_all(attack, matrices.evidence)
            except MissingModels as error:
                left_out[attack.name] = error
    if lack := int(lacking(matrices.evidence).sum()):
        logger.info(
            f"samples without IN or without OUT models: {lack} of {len(matrices.pool)}; more models would avoid this"
        )
    if left_out:
        logger.info(f"attacks left out: {', '.join(left_out)}: {next(iter(left_out.values()))}")
    pool, own, fits = matrices.pool, scores[chosen.name], sample_fits(matrices.evidence)
    for_all, all_fits = ({name: matrices.for_everyone(found[name]) for name in found} for found in (scores, fits))
    save_npz(RunDir(out).scores, for_all)
    write_samples(RunDir(out).samples, matrices.everyone, for_all[chosen.name], all_fits, for_all)
    evaluated = selection or _evaluate_named(chosen, comparable, section, likeness)
    private, no_estimate = _estimate(pool, evaluated)
    public = public_figures(pool, own, section.fpr)
    matched = is_matched(out)
    metrics = RunMetrics(
        attack=chosen.name,
        attack_record=record_attack(chosen),
        fpr=section.fpr,
        models=len(matrices.shadows.model),
        missing=tuple(missing),
        diverged=tuple(int(model) for model in matrices.shadows.diverged),
        samples=len(matrices.everyone),
        told=int((~matrices.free).sum()),
        rounds=int(matrices.shadows.extra.get(ROUND, np.ones(1)).max()),
        shadow_accuracy=ShadowAccuracy(out=_mean(matrices.shadows.accuracy), in_=_mean(matrices.shadows.accuracy_in)),
        misalignment=likeness.distance,
        unlike_shadows=likeness.unlike,
        target_network=matrices.target_network,
        shadow_network=matrices.shadow_network,
        matched=matched,
        selection=SelectionSummary.of(selection) if selection else None,
        private=private,
        no_estimate=no_estimate,
        public=public,
        public_by_class=figures_of_classes(pool, own, section.fpr) if public else None,
        epsilon=_epsilon(matrices, own, section, matched),
        vulnerable=most_vulnerable(pool, own, fits),
        audit=_audit(matrices),
    )
    metrics.write(out)
    submit_private(out, pool, own)
    return metrics


def _audit(matrices: Matrices) -> AuditSummary | None:
    folds = len(matrices.evidence.by_fold())
    return AuditSummary(folds=folds, models=folds * len(matrices.shadows.model)) if folds > 1 else None


def _epsilon(matrices: Matrices, score: np.ndarray, section: AttackConfig, matched: bool) -> EpsilonBound:
    """The bound on epsilon; in an audit the largest of its folds' bounds, at a joint confidence.

    The bound assumes that nothing but the target depends on the memberships of the samples that it is measured on.
    Shadows of other folds are trained with these, so each fold is scored with its own shadows alone, which also select
    the attack. The coin is that of all public samples, of which the scored ones are a part.
    """
    level = section.epsilon_delta, section.epsilon_confidence
    if reason := unfair_coin(matrices.everyone.membership):
        return EpsilonBound(None, *level, reason)
    fold, membership = matrices.evidence.fold, matrices.pool.membership
    if fold is None:
        return epsilon_bound(score, membership, *level, matched=matched)
    named, own = configured_attacks(section)
    folds, bounds = matrices.evidence.by_fold(), []
    for number, evidence in zip(np.unique(fold), folds, strict=True):
        try:
            scores = score_all(named or select_attack(evidence, section, own).chosen, evidence)
        except _NOT_COMPARABLE as error:
            return EpsilonBound(None, *level, f"a fold cannot be scored by itself: {error}")
        bounds.append(epsilon_bound(scores, membership[fold == number], *level, matched=matched, tests=len(folds)))
    return max(bounds, key=lambda bound: -1.0 if bound.lower is None else bound.lower)


def is_matched(out: Path) -> bool:
    """Whether the recipe of a run's shadow models was selected by `jaxmia match`, according to its configuration."""
    config = RunDir(out).config
    return config.exists() and load_config(config).matched


def _evaluate_named(attack: Attack, evidence: Evidence, section: AttackConfig, likeness: Likeness) -> Selection | str:
    """Evaluates a named attack on shadow models as pseudo-targets; returns the reason if that is impossible."""
    try:
        return select(evidence, [attack], section.fpr, targets=section.targets, likeness=likeness)
    except _NOT_COMPARABLE as error:
        return str(error)


def _estimate(pool: Pool, evaluated: Selection | str) -> tuple[PrivateEstimate | None, str | None]:
    """The estimate for the private samples and, where there are such samples but no estimate, the reason."""
    private = int((~pool.public).sum())
    if not private:
        return None, None
    if isinstance(evaluated, str):
        return None, evaluated
    found = private_estimate(pool, evaluated)
    return found, None if found else f"there are too few of them ({private:,})"


def _log_missing(out: Path, shadows: Chunk) -> list[int]:
    """Logs which of the configured models are missing, and returns their numbers."""
    if shadows.diverged:
        logger.info(f"shadows: {ranges(list(shadows.diverged))} diverged and are left out")
    missing = missing_models(out, {*shadows.model.tolist(), *shadows.diverged})
    if missing:
        inside = shadows.mask.sum(0)
        suffices = enough(inside, len(shadows.mask) - inside)
        logger.info(f"shadows: {len(shadows.model)} models found, missing {ranges(missing)}; {suffices}")
    return missing


def submit_private(out: Path, pool: Pool, score: np.ndarray) -> None:
    """Writes `submission.csv` for the private samples, if there are any; `score` covers all samples, `[sample]`."""
    private = ~pool.public
    if private.any():
        write_submission(RunDir(out).submission, pool.ids[private].tolist(), to_unit_interval(score[private]))
        logger.info(f"submission: {int(private.sum())} rows in {RunDir(out).submission}")


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))
