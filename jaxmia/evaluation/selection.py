"""Selects the attack on pseudo-targets: shadows of known membership, each attacked with the others.

Public labels are not used, so the figure on public samples stays unbiased.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Integer

from jaxmia.attacks import Aligned, Attack, Evidence, RankFusion, score_all, scores_of
from jaxmia.attacks.catalogue import AUTO, distinct_attacks, named_attack, own_attack
from jaxmia.attacks.ranks import ranks
from jaxmia.config import AttackConfig
from jaxmia.errors import InputError, MissingModels, NoPseudoTargets
from jaxmia.evaluation.metrics import auc, false_alarms, tpr_at_fpr
from jaxmia.evaluation.unlike import Likeness, likeness_to_shadows

TARGETS = 32
LARGEST_FUSION = 4
MAX_CORRELATION = 6.0
"""Largest correlation by chance between independent masks, in standard deviations; a larger one is rejected."""
_FEWEST = 4
"""Fewest shadow models among which pseudo-targets are drawn."""


@dataclass(frozen=True)
class CandidateResult:
    """Results of one candidate on the pseudo-targets.

    Attributes:
        name: Name of the attack.
        tpr: Mean TPR at the configured FPR; None if the attack cannot be used.
        std_error: Standard error of `tpr` over pseudo-targets.
        auc: Mean AUC.
        gap_to_best: Mean over pseudo-targets of the best candidate's TPR minus its own.
        gap_std_error: Standard error of `gap_to_best`.
        reason: Reason why it cannot be used; empty if it can.
    """

    name: str
    tpr: float | None = None
    std_error: float | None = None
    auc: float | None = None
    gap_to_best: float | None = None
    gap_std_error: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Selection:
    """The selected attack and the results behind the selection.

    Attributes:
        chosen: The selected attack.
        fpr: False positive rate at which the attacks are compared.
        targets: Number of pseudo-targets.
        expected: Mean TPR on held-out pseudo-targets: the attack is selected on one half of them and measured on the
            other, and vice versa. It applies to targets trained as the shadows were.
        expected_error: Standard error of `expected` over pseudo-targets.
        misalignment: Distance of the target from the shadows in standard deviations (`jaxmia.evaluation.unlike`).
        aligned: Whether the selected attack is wrapped in `Aligned` because of this distance.
        results: Results of all candidates in their order, fusions last.
    """

    chosen: Attack
    fpr: float
    targets: int
    expected: float
    expected_error: float
    misalignment: float
    aligned: bool
    results: tuple[CandidateResult, ...]

    @property
    def candidate(self) -> Attack:
        """The candidate that won: the selected attack without `Aligned`."""
        return self.chosen.attack if self.aligned and isinstance(self.chosen, Aligned) else self.chosen


Fusion = tuple[int, ...]
"""Indices of the candidates that are fused by rank; a single index is the candidate itself."""


@dataclass(frozen=True)
class _Trial:
    """Membership, and ranks of each candidate's scores, of one pseudo-target."""

    members: Bool[np.ndarray, " sample"]
    ranks: Float32[np.ndarray, "candidate sample"]

    def fused(self, fusion: Fusion) -> Float64[np.ndarray, " sample"]:
        return self.ranks[list(fusion)].mean(0, dtype=np.float64)


def select(
    evidence: Evidence,
    candidates: Sequence[Attack],
    fpr: float,
    *,
    targets: int = TARGETS,
    seed: int = 0,
    likeness: Likeness | None = None,
) -> Selection:
    """Selects the attack with the largest mean TPR at `fpr` on pseudo-targets.

    The first attack within one standard error of the best is selected, where the standard error is that of differences
    paired over pseudo-targets. Equal-weight fusions of the candidates by rank come last and must win by more. The
    pseudo-targets share shadows and samples, whose random choice the standard error does not include.

    If the target is unlike its shadows, the selected attack is wrapped in `Aligned`.
    Pseudo-targets cannot show that this is needed, since they resemble each other.

    Args:
        evidence: Evidence; the selection uses only its shadows, and the comparison with these its target too.
        candidates: Attacks to compare, simple ones first.
        fpr: False positive rate.
        targets: Largest number of pseudo-targets (at least 4), which are drawn at random.
        seed: Seed for drawing the pseudo-targets.
        likeness: Comparison of the target with its shadows; by default `likeness_to_shadows` on the evidence alone.

    Raises:
        NoPseudoTargets: There are fewer than four shadows, their masks depend on each other (so that one reveals the
            members of another), or `fpr` allows no false positive among a pseudo-target's non-members.
        MissingModels: No candidate can be used, or one cannot be used on a pseudo-target.
        InvalidScores: An attack gives something other than one number for each sample.
        InputError: Two candidates have the same name, `fpr` is not between 0 and 1, or `targets` is below 4.
    """
    check_names(candidates)
    drawn = _draw(evidence, fpr, targets, np.random.default_rng(seed))
    _refuse_rate(evidence.mask[drawn], fpr)
    check_independent(evidence.mask, drawn)
    usable, reasons = _usable(evidence, candidates)
    trials = _attack_pseudo_targets(evidence, usable, drawn)
    singles: list[Fusion] = [(index,) for index in range(len(usable))]
    tprs = _tprs(trials, singles, fpr)
    fusions = _grow_fusions(trials, tprs, fpr)
    everything, tprs = singles + fusions, np.concatenate([tprs, _tprs(trials, fusions, fpr)])
    attacks = [_attack(usable, fusion) for fusion in everything]
    chosen = attacks[choose(tprs)]
    expected = _expected(trials, tprs[: len(usable)], fpr)
    likeness = likeness or likeness_to_shadows(evidence, None)
    aligned = likeness.unlike and not isinstance(chosen, Aligned)
    aucs = [float(np.mean([auc(trial.fused(fusion), trial.members) for trial in trials])) for fusion in everything]
    return Selection(
        chosen=Aligned(chosen) if aligned else chosen,
        fpr=fpr,
        targets=len(trials),
        expected=float(expected.mean()),
        expected_error=std_error(expected),
        misalignment=likeness.distance,
        aligned=aligned,
        results=_results(candidates, attacks, reasons, tprs, aucs),
    )


def choose(tprs: Float[np.ndarray, "candidate target"]) -> int:
    """Index of the first candidate within one standard error of the best.

    >>> choose(np.array([[0.1, 0.1], [0.2, 0.3], [0.3, 0.2]]))
    1
    """
    best = tprs[tprs.mean(1).argmax()]
    return next(index for index, own in enumerate(tprs) if (best - own).mean() <= std_error(best - own) + 1e-12)


def check_independent(mask: Bool[np.ndarray, "model sample"], targets: Integer[np.ndarray, " target"]) -> None:
    """Rejects masks that reveal a pseudo-target's members: equal to another model's, or balanced over the models.

    Args:
        mask: Membership masks.
        targets: Indices of the pseudo-targets.

    Raises:
        NoPseudoTargets: A mask correlates with another one, or with the number of other models trained on a sample, by
            more than six standard deviations of the correlation of independent masks.
    """
    centered = mask - mask.mean(1, keepdims=True, dtype=np.float32)
    norm = np.maximum(np.sqrt((centered**2).sum(1, keepdims=True)), 1e-6)
    unit = centered / norm
    limit = min(MAX_CORRELATION / np.sqrt(mask.shape[1]), 0.95)
    # with independent masks, the standard deviation of the mean is at most that of one correlation
    counts = unit.sum(0) - unit[targets]
    counts /= np.maximum(np.sqrt((counts**2).sum(1, keepdims=True)), 1e-6)
    correlation = float((unit[targets] * counts).sum(1).mean())
    if abs(correlation) > limit:
        raise NoPseudoTargets(
            f"shadows mask: membership correlates by {correlation:.2f} with the number of other models trained on "
            "the sample, expected independent masks; leaving one model out would reveal its members"
        )
    others = unit[targets] @ unit.T
    others[np.arange(len(targets)), targets] = 0
    row, model = np.unravel_index(np.abs(others).argmax(), others.shape)
    if abs(others[row, model]) > limit:
        raise NoPseudoTargets(
            f"shadows mask: models {targets[row]} and {model} have masks that correlate by {others[row, model]:.2f}, "
            "expected independent ones; score models with equal masks in separate runs, or name an attack instead of "
            "auto"
        )


def check_enough(models: int) -> None:
    """Checks that there are enough shadow models to select an attack.

    Raises:
        NoPseudoTargets: There are fewer than four.
    """
    if models < _FEWEST:
        raise NoPseudoTargets(f"shadows: {models} models, expected at least {_FEWEST} to use them as pseudo-targets")


def check_names(candidates: Sequence[Attack]) -> None:
    """Checks that candidates can be told apart.

    Raises:
        InputError: Two have the same name.
    """
    names = [attack.name for attack in candidates]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(f"attack.candidates: {repeated[0]!r} is the name of {names.count(repeated[0])} attacks")


def _draw(evidence: Evidence, fpr: float, targets: int, rng: np.random.Generator) -> Integer[np.ndarray, " target"]:
    """Indices of the pseudo-targets, ascending."""
    models = len(evidence.shadows)
    check_enough(models)
    if targets < 4:
        raise InputError(f"attack.targets: {targets} is fewer than 4")
    if not 0 < fpr < 1:
        raise InputError(f"attack.fpr: {fpr} is not between 0 and 1")
    return np.sort(rng.choice(models, min(targets, models), replace=False))


def _refuse_rate(masks: Bool[np.ndarray, "target sample"], fpr: float) -> None:
    """Rejects an FPR that allows no false positive for a pseudo-target."""
    nonmembers = (~masks).sum(1)
    nonmembers = nonmembers[(nonmembers > 0) & (nonmembers < masks.shape[1])]
    if len(nonmembers) and false_alarms(fpr, fewest := int(nonmembers.min())) < 1:
        raise NoPseudoTargets(
            f"attack.fpr: {fpr:g} allows no false positive among the {fewest} non-members of a pseudo-target, "
            f"expected at least {np.ceil(1e4 / fewest) / 1e4:g}"
        )


def _attack_pseudo_targets(
    evidence: Evidence, attacks: list[Attack], models: Integer[np.ndarray, " target"]
) -> list[_Trial]:
    """Applies every attack to each of the models as a pseudo-target."""
    trials = [
        _Trial(
            members,
            np.stack([_ranks(attack, against) for attack in attacks]),
        )
        for against, members in evidence.pseudo_targets([int(model) for model in models])
        if members.any() and not members.all()
    ]
    if len(trials) < 4:
        raise NoPseudoTargets("shadows mask: fewer than four shadows were trained on some samples and not on others")
    return trials


def _ranks(attack: Attack, evidence: Evidence) -> Float32[np.ndarray, " sample"]:
    """Rank of each sample's score in (0, 1]."""
    return (ranks(scores_of(attack, evidence)) / len(evidence.labels)).astype(np.float32)


def _usable(evidence: Evidence, candidates: Sequence[Attack]) -> tuple[list[Attack], dict[str, str]]:
    """The candidates that can score the evidence, and the reasons why the others cannot, by name."""
    usable, reasons = [], {}
    for attack in candidates:
        try:
            score_all(attack, evidence)
            usable.append(attack)
        except MissingModels as error:
            reasons[attack.name] = str(error)
    if not usable:
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise MissingModels(f"attack: no candidate can be used: {why}")
    return usable, reasons


def _attack(usable: list[Attack], fusion: Fusion) -> Attack:
    return usable[fusion[0]] if len(fusion) == 1 else RankFusion(tuple(usable[index] for index in fusion))


def _tprs(trials: list[_Trial], fusions: list[Fusion], fpr: float) -> Float[np.ndarray, "fusion target"]:
    """TPR of each fusion on each pseudo-target."""
    tprs = [[tpr_at_fpr(trial.fused(fusion), trial.members, fpr) for trial in trials] for fusion in fusions]
    return np.reshape(tprs, (len(fusions), len(trials)))


def _grow_fusions(trials: list[_Trial], singles: Float[np.ndarray, "candidate target"], fpr: float) -> list[Fusion]:
    """Builds fusions greedily from the best candidate.

    Among many candidates, one that helps by chance is likely, so a fusion must gain two standard errors.

    Args:
        trials: The pseudo-targets.
        singles: TPR of each candidate.
        fpr: False positive rate.
    """
    best = int(singles.mean(1).argmax())
    fusion, tprs = (best,), singles[best]
    fusions: list[Fusion] = []
    while len(fusion) < min(LARGEST_FUSION, len(singles)):
        larger = [(*fusion, partner) for partner in range(len(singles)) if partner not in fusion]
        tried = _tprs(trials, larger, fpr)
        best = int(tried.mean(1).argmax())
        gain = tried[best] - tprs
        if gain.mean() <= 2 * std_error(gain):
            break
        fusion, tprs = larger[best], tried[best]
        fusions.append(fusion)
    return fusions


def _expected(
    trials: list[_Trial], singles: Float[np.ndarray, "candidate target"], fpr: float
) -> Float[np.ndarray, " target"]:
    """TPR on each pseudo-target of the attack that is selected on the other half of the pseudo-targets."""
    even = np.arange(len(trials)) % 2 == 0
    expected = np.empty(len(trials))
    for tuned in (even, ~even):
        tuning = [trial for trial, chosen in zip(trials, tuned, strict=True) if chosen]
        measuring = [trial for trial, chosen in zip(trials, tuned, strict=True) if not chosen]
        fusions = _grow_fusions(tuning, singles[:, tuned], fpr)
        everything = [(index,) for index in range(len(singles))] + fusions
        chosen = choose(np.concatenate([singles[:, tuned], _tprs(tuning, fusions, fpr)]))
        expected[~tuned] = _tprs(measuring, [everything[chosen]], fpr)[0]
    return expected


def _results(
    candidates: Sequence[Attack],
    attacks: list[Attack],
    reasons: dict[str, str],
    tprs: Float[np.ndarray, "candidate target"],
    aucs: list[float],
) -> tuple[CandidateResult, ...]:
    best = tprs[tprs.mean(1).argmax()]
    found = {}
    for attack, own, area in zip(attacks, tprs, aucs, strict=True):
        gap_to_best = best - own
        found[attack.name] = CandidateResult(
            attack.name, float(own.mean()), std_error(own), area, float(gap_to_best.mean()), std_error(gap_to_best)
        )
    names = dict.fromkeys([*(attack.name for attack in candidates), *found])
    return tuple(found[name] if name in found else CandidateResult(name, reason=reasons[name]) for name in names)


def std_error(values: Float[np.ndarray, " value"]) -> float:
    """Standard error of the mean of independent values."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def configured_attacks(section: AttackConfig) -> tuple[Attack | None, list[Attack]]:
    """Returns the named attack (None for `auto`) and the user's own candidates, importing what is not standard.

    Raises:
        InputError: One of them is unknown, cannot be imported or is not an attack, or two candidates share a name.
    """
    named = None if section.name == AUTO else named_attack(section.name)
    candidates = [own_attack(path, "attack.candidates") for path in section.candidates]
    check_names(candidates)
    return named, candidates


def check_count(section: AttackConfig, models: int) -> None:
    """Checks before training that the attack can be selected with so many shadow models.

    Raises:
        InputError: It cannot.
    """
    if section.name == AUTO and models < _FEWEST:
        raise InputError(
            f"shadow.count: {models} is too few for attack.name: {AUTO}, which needs at least {_FEWEST}; or name one "
            "of the attacks in docs/attacks.md, such as lira-online-global"
        )


def select_attack(
    evidence: Evidence, section: AttackConfig, own: Sequence[Attack] = (), likeness: Likeness | None = None
) -> Selection:
    """Selects among the standard attacks and the user's own on pseudo-targets; `likeness` as in `select`.

    Raises:
        InputError: `select` raises it, or one of its subclasses; the message then also says where the attacks are that
            can be named instead.
    """
    try:
        candidates = [*distinct_attacks(evidence), *own]
        return select(evidence, candidates, section.fpr, targets=section.targets, likeness=likeness)
    except InputError as error:
        raise type(error)(
            f"attack.name: {AUTO}: {error}; or name one of the attacks in docs/attacks.md, such as lira-online-global"
        ) from error
