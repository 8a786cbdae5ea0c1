"""The chosen attack on shadows that play the target, with more and more of the others to help it."""

from dataclasses import dataclass

import numpy as np

from jaxmia.attacks import Attack, Evidence
from jaxmia.errors import MissingModels
from jaxmia.evaluation.metrics import Estimate, false_alarms, tpr_at_fpr
from jaxmia.report.uncertainty import tpr_band

TARGETS = 16
FEWEST = 4
MARGINS = 6e7
"""Margins that all pseudo-targets together may read: about a quarter of a minute on two cores."""


@dataclass(frozen=True)
class Trial:
    """One pseudo-target: scores float64 and membership bool, both `[sample]`."""

    scores: np.ndarray
    members: np.ndarray


@dataclass(frozen=True)
class Step:
    """The attack with a given number of shadows.

    Attributes:
        models: How many.
        trials: Pseudo-targets, scored by as many shadows.
        reached: TPR of each, `[target]`.
        public: TPR on the public samples with its 95 % interval; None where they are not of both kinds, or too few.
    """

    models: int
    trials: tuple[Trial, ...]
    reached: np.ndarray
    public: Estimate | None


def rehearse(
    evidence: Evidence, attack: Attack, membership: np.ndarray, fpr: float, *, targets: int = TARGETS, seed: int = 0
) -> list[Step]:
    """Attacks pseudo-targets, and the target's public samples, with growing numbers of shadows.

    The shadows of a step are drawn at random for each pseudo-target; those of the public samples are the first of one
    random order, so that each step adds to the last. A sample that is left without an IN or an OUT model is left out.

    Args:
        evidence: Of the whole run.
        attack: Fixed beforehand.
        membership: 1 member, 0 non-member, -1 unknown, `[sample]`.
        fpr: At which the TPR is taken.
        targets: Pseudo-targets at most; fewer where the run is large.
        seed: Of all draws.

    Returns:
        Steps of 4, 8, 16, ... and finally all shadows but one; none where that is fewer than 4. A number of models
        that the attack refuses is left out, and so are shadows that were trained on all samples or on none.
    """
    rng = np.random.default_rng(seed)
    models = len(evidence.shadows)
    affordable = int(MARGINS / (2 * evidence.shadows.size))
    playing = rng.permutation(models)[: min(targets, max(4, affordable))]
    order = rng.permutation(models)
    steps = []
    for size in _sizes(models - 1):
        subsets = [rng.permutation(np.delete(np.arange(models), target))[:size] for target in playing]
        try:
            played = [_play(evidence, attack, *cast) for cast in zip(playing, subsets, strict=True)]
            trials = [trial for trial in played if trial.members.any() and not trial.members.all()]
            reached = np.array([tpr_at_fpr(trial.scores, trial.members, fpr) for trial in trials])
            public = _attack_public(evidence, attack, membership, order[:size], fpr)
        except MissingModels:
            continue
        if len(trials) > 1:
            steps.append(Step(size, tuple(trials), reached, public))
    return steps


def _sizes(most: int) -> list[int]:
    powers = [FEWEST * 2**power for power in range(20) if FEWEST * 2**power < most]
    return [*powers, most] if most >= FEWEST else []


def _play(evidence: Evidence, attack: Attack, target: int, subset: np.ndarray) -> Trial:
    cast = np.append(subset, target)
    some = Evidence(evidence.target, evidence.shadows[cast], evidence.mask[cast], evidence.labels)
    against, members = next(some.pseudo_targets([len(subset)]))
    return Trial(attack(against), members)


def _attack_public(
    evidence: Evidence, attack: Attack, membership: np.ndarray, subset: np.ndarray, fpr: float
) -> Estimate | None:
    some = Evidence(evidence.target, evidence.shadows[subset], evidence.mask[subset], evidence.labels)
    inside, outside = some.sides
    kept = np.flatnonzero((inside.count > 0) & (outside.count > 0))
    # Private samples are scored as well: some attacks fit what they share with the public ones.
    scores, known = attack(some.take(kept)), membership[kept]
    public, members = known >= 0, known == 1
    nonmembers = int((known == 0).sum())
    if not members.any() or false_alarms(fpr, nonmembers) < 1:
        return None
    return tpr_band(scores[public], members[public], [fpr])[0]
