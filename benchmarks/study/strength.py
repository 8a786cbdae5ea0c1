"""Measures the strength of every attack, on the private truth and on replicas of the target."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from benchmarks.study.making import Case, truth_of
from benchmarks.study.published import LiraPublished, RmiaPublished
from jaxmia.attacks import Aligned, Attack, Evidence, misaligned
from jaxmia.attacks.catalogue import distinct_attacks, standard_attacks
from jaxmia.errors import InputError
from jaxmia.evaluation.intervals import LEVEL, Estimate
from jaxmia.evaluation.metrics import FPRS, auc, figures, paired_difference, tpr_at_fpr
from jaxmia.evaluation.selection import Selection, select
from jaxmia.leaderboard.submission import read_truth
from jaxmia.runs.matrices import Matrices, read_matrices
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.store import Chunk, ScoreStore

FPR = 0.05
REPLICATES = 500
AUTO = "auto"
PUBLISHED: tuple[Attack, ...] = (LiraPublished(), RmiaPublished())
REFERENCES = (*(attack.name for attack in PUBLISHED), "lira-online-global", "rmia-online")
"""Attacks that `auto` is compared with pairwise: as published, and in this project's form."""

FIGURES = ("auc", *(f"tpr@{fpr:g}" for fpr in FPRS))


@dataclass(frozen=True)
class Subject:
    """One challenge with the evidence of some shadows, and the truth, which only the study knows.

    Samples without an IN or without an OUT model are left out; with eight models these are one in 128.

    Attributes:
        evidence: Evidence against the target.
        judged: Whether the figures on the target include the sample, bool `[sample]`.
        members: Membership in the target's training set, bool `[sample]`.
        replicas: Margins of each replica, `[replica, view, sample]`.
        replica_members: Membership in each replica's training set, bool `[replica, sample]`.
    """

    evidence: Evidence
    judged: np.ndarray
    members: np.ndarray
    replicas: np.ndarray
    replica_members: np.ndarray


def subject(case: Case, name: str, models: int) -> Subject:
    """Reads a challenge with the first `models` shadows of `matched`, `true` or `default`."""
    matrices = read_matrices(case.shadows(name))
    pool, replicas = matrices.pool, ScoreStore(RunDir(case.shadows("replicas")).shadows).read()
    evidence, kept = _first(matrices, models)
    return Subject(
        evidence,
        ~pool.public[kept],
        truth_of(case, pool.ids)[kept],
        replicas.phi[:, :, kept],
        replicas.mask[:, kept],
    )


def subject_of_run(folder: Path, models: int) -> Subject:
    """Reads a run directory; its truth is `truth.csv` if there is one, or else the public labels."""
    matrices = read_matrices(folder)
    pool = matrices.pool
    evidence, kept = _first(matrices, models)
    judged, members = pool.public, pool.membership == 1
    if (folder / "truth.csv").exists():
        ids, truth = read_truth(folder / "truth.csv")
        known = dict(zip(ids.tolist(), truth.tolist(), strict=True))
        if missing := [name for name in pool.ids[~pool.public].tolist() if name not in known]:
            raise InputError(f"{folder / 'truth.csv'}: lacks {len(missing)} private ids, {missing[0]} first")
        judged, members = ~pool.public, np.array([known.get(name, False) for name in pool.ids.tolist()])
    views = len(evidence.target)
    nothing = np.empty((0, views, len(kept))), np.empty((0, len(kept)), bool)
    return Subject(evidence, judged[kept], members[kept], *nothing)


def _first(matrices: Matrices, models: int) -> tuple[Evidence, np.ndarray]:
    shadows: Chunk = matrices.shadows
    chosen = np.flatnonzero(shadows.model < models)
    if len(chosen) < models:
        raise InputError(f"shadows: {len(chosen)} of {models} models exist")
    evidence = Evidence(matrices.evidence.target, shadows.phi[chosen], shadows.mask[chosen], matrices.pool.labels)
    inside, outside = evidence.sides
    kept = np.flatnonzero((inside.count > 0) & (outside.count > 0))
    return evidence.take(kept), kept


def measure(one: Subject) -> dict[str, Any]:
    """Measures every attack, the published ones and `auto`.

    Returns:
        As plain JSON: `chosen` (the attack that `auto` selected), `misalignment`, `expected`, `samples`; `target`,
        figures of each attack on the judged samples; `against`, paired differences of `auto` on them; and `replicas`,
        figures of each attack, `[replica]`.
    """
    selection = select(one.evidence, distinct_attacks(one.evidence), FPR)
    scores = {attack: score[one.judged] for attack, score in _scores(one.evidence, selection).items()}
    members = one.members[one.judged]
    replicas: dict[str, dict[str, list[float]]] = {}
    for phi, replica_members in zip(one.replicas, one.replica_members, strict=True):
        for attack, score in _scores(one.evidence.with_target(phi), selection).items():
            found = replicas.setdefault(attack, {figure: [] for figure in FIGURES})
            for figure, value in figures_of(score, replica_members).items():
                found[figure].append(value)
    return {
        "chosen": selection.chosen.name,
        "misalignment": selection.misalignment,
        "expected": selection.expected,
        "expected_error": selection.expected_error,
        "samples": len(members),
        "target": {attack: figures(score, members).to_dict() for attack, score in scores.items()},
        "against": {
            attack: {figure: asdict(paired(scores[AUTO], scores[attack], members, figure)) for figure in FIGURES}
            for attack in REFERENCES
        },
        "replicas": replicas,
    }


def _scores(evidence: Evidence, selection: Selection) -> dict[str, np.ndarray]:
    """Scores `[sample]` of each attack."""
    menu = (*PUBLISHED, *standard_attacks())
    return {AUTO: _auto(evidence, selection)(evidence), **{attack.name: attack(evidence) for attack in menu}}


def _auto(evidence: Evidence, selection: Selection) -> Attack:
    """Attack that `auto` uses against this target; only the alignment depends on the target."""
    plain = selection.candidate
    return Aligned(plain) if misaligned(evidence) and not isinstance(plain, Aligned) else plain


def figures_of(scores: np.ndarray, members: np.ndarray) -> dict[str, float]:
    """AUC and TPR at each FPR."""
    return {"auc": auc(scores, members), **{f"tpr@{fpr:g}": tpr_at_fpr(scores, members, fpr) for fpr in FPRS}}


def paired(one: np.ndarray, other: np.ndarray, members: np.ndarray, figure: str) -> Estimate:
    """Difference of a figure in `FIGURES` between two scores, with its interval."""
    return paired_difference(one, other, members, partial(figure_of, figure=figure), replicates=REPLICATES)


def figure_of(scores: np.ndarray, members: np.ndarray, figure: str) -> float:
    """AUC, or TPR at an FPR."""
    return auc(scores, members) if figure == "auc" else tpr_at_fpr(scores, members, float(figure.removeprefix("tpr@")))


def mean_of(groups: Sequence[np.ndarray]) -> Estimate:
    """Mean over targets of the mean over replicas, with Student's 95 % interval for the chance in replicas.

    Args:
        groups: Figures of each target's replicas, `[target][replica]`.
    """
    variance = sum(group.var(ddof=1) / len(group) for group in groups) / len(groups) ** 2
    freedom = sum(len(group) - 1 for group in groups)
    center, reach = np.mean([group.mean() for group in groups]), student.ppf((1 + LEVEL) / 2, freedom) * variance**0.5
    return Estimate(float(center), float(center - reach), float(center + reach))
