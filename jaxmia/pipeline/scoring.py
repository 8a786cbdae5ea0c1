"""Computes membership scores, a submission and its figures from matrices of logit margins."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
    return score_matrices(matrices, section, named, candidates, matched=is_matched(out)).write(out, missing)


@dataclass(frozen=True)
class Scored:
    """Matrices that an attack has scored.

    Attributes:
        matrices: Margins and masks.
        section: Configuration of the attack, of its false positive rate and of the bound on epsilon.
        attack: The attack.
        selection: How `auto` selected it; None if it was named.
        candidates: The user's own attacks, besides the standard ones.
        score: Scores of the attack on the free samples, float64 `[sample]`; higher means member.
        matched: Whether the recipe of the shadow models was selected with the public labels.
    """

    matrices: Matrices
    section: AttackConfig
    attack: Attack
    selection: Selection | None
    candidates: Sequence[Attack]
    score: np.ndarray
    matched: bool

    @cached_property
    def epsilon(self) -> EpsilonBound:
        """The bound on epsilon; in an audit the largest of its folds' bounds, at a joint confidence.

        The bound assumes that nothing but the target depends on the memberships of the samples that it is measured on.
        Shadows of other folds are trained with these, so each fold is scored with its own shadows alone, which also
        select the attack. The coin is that of all public samples, of which the scored ones are a part.
        """
        matrices, matched = self.matrices, self.matched
        level = self.section.epsilon_delta, self.section.epsilon_confidence
        if reason := unfair_coin(matrices.everyone.membership):
            return EpsilonBound(None, *level, reason)
        fold, membership = matrices.evidence.fold, matrices.pool.membership
        if fold is None:
            return epsilon_bound(self.score, membership, *level, matched=matched)
        folds, bounds = matrices.evidence.by_fold(), []
        for number, evidence in zip(np.unique(fold), folds, strict=True):
            try:
                scores = score_all(self._attack_on(evidence), evidence)
            except _NOT_COMPARABLE as error:
                return EpsilonBound(None, *level, f"a fold cannot be scored by itself: {error}")
            bounds.append(epsilon_bound(scores, membership[fold == number], *level, matched=matched, tests=len(folds)))
        return max(bounds, key=lambda bound: -1.0 if bound.lower is None else bound.lower)

    def _attack_on(self, evidence: Evidence) -> Attack:
        """The attack if it was named; else the one that is selected on other evidence."""
        return select_attack(evidence, self.section, self.candidates).chosen if self.selection else self.attack

    @cached_property
    def fits(self) -> dict[str, np.ndarray]:
        """Statistics of each free sample (`jaxmia.attacks.sample_fits`), `[sample]` each."""
        return sample_fits(self.matrices.evidence)

    def for_everyone(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Expands columns of the free samples to all samples; NaN where a membership is fixed."""
        return {name: self.matrices.for_everyone(column) for name, column in columns.items()}

    def scores_of_all_attacks(self) -> dict[str, np.ndarray]:
        """Scores of this attack, first, and of all others that can be used, float64 `[sample]` each, by name."""
        evidence = self.matrices.evidence
        scores = {self.attack.name: self.score}
        left_out: dict[str, MissingModels] = {}
        for attack in (*distinct_attacks(evidence), *self.candidates):
            if attack.name not in scores:
                try:
                    scores[attack.name] = score_all(attack, evidence)
                except MissingModels as error:
                    left_out[attack.name] = error
        if lack := int(lacking(evidence).sum()):
            logger.info(
                f"samples without IN or without OUT models: {lack} of {len(evidence.labels)}; more models would avoid "
                "this"
            )
        if left_out:
            logger.info(f"attacks left out: {', '.join(left_out)}: {next(iter(left_out.values()))}")
        return scores

    def write(self, out: Path, missing: Sequence[int] = ()) -> RunMetrics:
        """Writes what `score` writes.

        Args:
            out: Run directory.
            missing: Numbers of configured models that are missing.

        Returns:
            Contents of `metrics.json`.
        """
        scores = self.for_everyone(self.scores_of_all_attacks())
        save_npz(RunDir(out).scores, scores)
        own, fits = scores[self.attack.name], self.for_everyone(self.fits)
        write_samples(RunDir(out).samples, self.matrices.everyone, own, fits, scores)
        metrics = self._metrics(missing)
        metrics.write(out)
        submit_private(out, self.matrices.pool, self.score)
        return metrics

    def _metrics(self, missing: Sequence[int]) -> RunMetrics:
        matrices, section, pool, likeness = self.matrices, self.section, self.matrices.pool, self.matrices.likeness
        evaluated = self.selection or _evaluate_named(self.attack, matrices, section)
        private, no_estimate = _estimate(pool, evaluated)
        public = public_figures(pool, self.score, section.fpr)
        accuracy = ShadowAccuracy(out=_mean(matrices.shadows.accuracy), in_=_mean(matrices.shadows.accuracy_in))
        return RunMetrics(
            attack=self.attack.name,
            attack_record=record_attack(self.attack),
            fpr=section.fpr,
            models=len(matrices.shadows.model),
            missing=tuple(missing),
            diverged=tuple(int(model) for model in matrices.shadows.diverged),
            samples=len(matrices.everyone),
            fixed=int((~matrices.free).sum()),
            rounds=int(matrices.shadows.extra.get(ROUND, np.ones(1)).max()),
            shadow_accuracy=accuracy,
            misalignment=likeness.distance,
            unlike_shadows=likeness.unlike,
            target_network=matrices.target_network,
            shadow_network=matrices.shadow_network,
            matched=self.matched,
            selection=SelectionSummary.of(self.selection) if self.selection else None,
            private=private,
            no_estimate=no_estimate,
            public=public,
            public_by_class=figures_of_classes(pool, self.score, section.fpr) if public else None,
            epsilon=self.epsilon,
            vulnerable=most_vulnerable(pool, self.score, self.fits),
            audit=_audit(matrices),
        )


def score_matrices(
    matrices: Matrices,
    section: AttackConfig,
    named: Attack | None,
    candidates: Sequence[Attack],
    *,
    matched: bool = False,
) -> Scored:
    """Scores the free samples.

    Args:
        matrices: Margins and masks.
        section: Configuration of the attack; its `name` and `candidates` are not read.
        named: The attack; None to select it on shadow models as pseudo-targets.
        candidates: The user's own attacks, besides the standard ones.
        matched: Whether the recipe of the shadow models was selected with the public labels.

    Raises:
        InputError: There are too few models for the attack.
    """
    selection = None
    if named is None:
        selection = select_attack(matrices.pseudo_target_evidence, section, candidates, matrices.likeness)
    chosen = selection.chosen if selection else named
    assert chosen is not None
    own = score_all(chosen, matrices.evidence)
    return Scored(matrices, section, chosen, selection, candidates, own, matched)


def _audit(matrices: Matrices) -> AuditSummary | None:
    folds = len(matrices.evidence.by_fold())
    return AuditSummary(folds=folds, models=folds * len(matrices.shadows.model)) if folds > 1 else None


def is_matched(out: Path) -> bool:
    """Whether the recipe of a run's shadow models was selected by `jaxmia match`, according to its configuration."""
    config = RunDir(out).config
    return config.exists() and load_config(config).matched


def _evaluate_named(attack: Attack, matrices: Matrices, section: AttackConfig) -> Selection | str:
    """Evaluates a named attack on shadow models as pseudo-targets; returns the reason if that is impossible."""
    try:
        evidence, likeness = matrices.pseudo_target_evidence, matrices.likeness
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
