"""TPR of the submitted attack by the number of shadow models."""

from dataclasses import dataclass

import numpy as np

from jaxmia.attacks import Attack, Evidence
from jaxmia.errors import MissingModels
from jaxmia.evaluation.intervals import Estimate
from jaxmia.evaluation.metrics import false_alarms, tpr_at_fpr
from jaxmia.report.uncertainty import tpr_band

TARGETS = 16
FEWEST = 4
MARGINS = 6e7
"""Largest number of margins read for all pseudo-targets: about 15 seconds on two cores."""


@dataclass(frozen=True)
class Trial:
    """Scores and membership of one pseudo-target, both `[sample]`."""

    scores: np.ndarray
    members: np.ndarray


@dataclass(frozen=True)
class Step:
    """Results of the attack with a given number of shadows.

    Attributes:
        models: Number of shadows.
        trials: Pseudo-targets scored with that many shadows.
        tprs: TPR against each pseudo-target, `[target]`.
        public: TPR on the public samples with its 95 % interval; None if they lack members or have too few non-members.
    """

    models: int
    trials: tuple[Trial, ...]
    tprs: np.ndarray
    public: Estimate | None


def tpr_by_models(
    evidence: Evidence, attack: Attack, membership: np.ndarray, fpr: float, *, targets: int = TARGETS, seed: int = 0
) -> list[Step]:
    """Measures the TPR against pseudo-targets, and on the target's public samples, with growing numbers of shadows.

    Each pseudo-target gets its own random shadows at each step. For the public samples, each step adds shadows to those
    of the step before, in a random order. Samples without IN or without OUT models are left out.

    Args:
        evidence: Evidence of the whole run.
        attack: Attack to apply.
        membership: 1 for members, 0 for non-members, -1 for unknown, `[sample]`.
        fpr: False positive rate of the TPR.
        targets: Largest number of pseudo-targets; large runs use fewer.
        seed: Seed of all draws.

    Returns:
        Steps of 4, 8, 16, ... and finally all shadows but one; empty if that is fewer than 4. Numbers of models for
        which the attack lacks IN or OUT models are skipped, and so are pseudo-targets that were trained on all samples
        or on none.
    """
    rng = np.random.default_rng(seed)
    models = len(evidence.shadows)
    affordable = int(MARGINS / (2 * evidence.shadows.size))
    drawn = rng.permutation(models)[: min(targets, max(4, affordable))]
    order = rng.permutation(models)
    steps = []
    for size in _sizes(models - 1):
        subsets = [rng.permutation(np.delete(np.arange(models), target))[:size] for target in drawn]
        try:
            attacked = [_attack_one(evidence, attack, *pair) for pair in zip(drawn, subsets, strict=True)]
            trials = [trial for trial in attacked if trial.members.any() and not trial.members.all()]
            tprs = np.array([tpr_at_fpr(trial.scores, trial.members, fpr) for trial in trials])
            public = _attack_public(evidence, attack, membership, order[:size], fpr)
        except MissingModels:
            continue
        if len(trials) > 1:
            steps.append(Step(size, tuple(trials), tprs, public))
    return steps


def _sizes(most: int) -> list[int]:
    powers = [FEWEST * 2**power for power in range(20) if FEWEST * 2**power < most]
    return [*powers, most] if most >= FEWEST else []


def _attack_one(evidence: Evidence, attack: Attack, target: int, subset: np.ndarray) -> Trial:
    """Attacks one shadow as a pseudo-target, with a subset of the others as its shadows."""
    models = np.append(subset, target)
    some = Evidence(evidence.target, evidence.shadows[models], evidence.mask[models], evidence.labels)
    against, members = next(some.pseudo_targets([len(subset)]))
    return Trial(attack(against), members)


def _attack_public(
    evidence: Evidence, attack: Attack, membership: np.ndarray, subset: np.ndarray, fpr: float
) -> Estimate | None:
    some = Evidence(evidence.target, evidence.shadows[subset], evidence.mask[subset], evidence.labels)
    inside, outside = some.sides
    kept = np.flatnonzero((inside.count > 0) & (outside.count > 0))
    # Private samples are scored as well: some attacks fit parameters to all samples.
    scores, known = attack(some.take(kept)), membership[kept]
    public, members = known >= 0, known == 1
    nonmembers = int((known == 0).sum())
    if not members.any() or false_alarms(fpr, nonmembers) < 1:
        return None
    return tpr_band(scores[public], members[public], [fpr])[0]
