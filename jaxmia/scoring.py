"""Matrices of logit margins to one score a sample, a submission and its figures."""

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmia.attacks import (
    Attack,
    Evidence,
    distinct_attacks,
    lacking,
    sample_fits,
    score_all,
    standard_attacks,
)
from jaxmia.config import AttackSection
from jaxmia.details import (
    epsilon_bound,
    figures_of_classes,
    most_exposed,
    private_estimate,
    public_figures,
    write_samples,
)
from jaxmia.errors import InputError
from jaxmia.files import load_npz, save_npz, write_text
from jaxmia.pool import Pool
from jaxmia.scores.store import LARGEST_MARGIN, Chunk, ScoreStore
from jaxmia.selection import Selection, select
from jaxmia.status import enough, missing_models, ranges
from jaxmia.submission import to_unit_interval, write_submission

AUTO = "auto"


@dataclass(frozen=True)
class Matrices:
    """What a run directory holds once its models are trained and queried.

    Attributes:
        pool: Without images.
        evidence: The target's and the shadows' margins.
        shadows: All chunks as one.
    """

    pool: Pool
    evidence: Evidence
    shadows: Chunk


def read_matrices(out: Path) -> Matrices:
    """Reads `pool.npz`, `target.npz` and `shadows/*.npz`, whoever made them.

    Raises:
        InputError: One is missing, damaged, or of another pool than the others.
    """
    pool = Pool.load(out / "pool.npz")
    target = load_npz(out / "target.npz", required=("phi",))["phi"]
    if target.ndim != 2:
        raise InputError(f"{out / 'target.npz'}: phi has shape {list(target.shape)}, expected [view, sample]")
    if target.dtype.kind == "f" and (large := np.argwhere(_too_large(target))).size:
        view, sample = large[0]
        raise InputError(
            f"{out / 'target.npz'}: phi of view {view} at sample {sample} is {target[view, sample]:g}, expected a "
            f"logit margin of at most {LARGEST_MARGIN:g} in size"
        )
    shadows = ScoreStore(out / "shadows").read()
    for name, phi in ((out / "target.npz", target), (out / "shadows", shadows.phi)):
        if phi.shape[-1] != len(pool):
            raise InputError(f"{name}: phi has {phi.shape[-1]} samples, {out / 'pool.npz'} has {len(pool)}")
    try:
        evidence = Evidence(target, shadows.phi, shadows.mask, pool.labels)
    except InputError as error:
        raise InputError(f"{out}: {error}") from error
    return Matrices(pool, evidence, shadows)


def _too_large(phi: np.ndarray) -> np.ndarray:
    wide = phi.astype(np.float64)  # half precision does not reach that far
    return np.isfinite(wide) & (np.abs(wide) > LARGEST_MARGIN)


def score(out: Path, section: AttackSection, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Writes `scores.npz`, `samples.csv`, `submission.csv` (where there are private samples) and `metrics.json`.

    Args:
        out: A run directory.
        section: Which attack, and at which false positive rate it is to be strong.
        say: Prints one line.

    Returns:
        What `metrics.json` holds.

    Raises:
        InputError: A file is missing or bad, the attack's name is unknown, or it lacks the models that it needs.
    """
    named = None if section.name == AUTO else named_attack(section.name)
    matrices = read_matrices(out)
    missing = _tell_missing(out, matrices.shadows, say)
    selection = None if named else select_attack(matrices.evidence, section)
    chosen = selection.chosen if selection else named
    assert chosen is not None
    scores = {chosen.name: score_all(chosen, matrices.evidence)}
    left_out: dict[str, InputError] = {}
    for attack in distinct_attacks(matrices.evidence):
        if attack.name not in scores:
            try:
                scores[attack.name] = score_all(attack, matrices.evidence)
            except InputError as error:
                left_out[attack.name] = error
    if lack := int(lacking(matrices.evidence).sum()):
        say(f"samples without IN or without OUT models: {lack} of {len(matrices.pool)}; more models would leave none")
    if left_out:
        say(f"attacks left out: {', '.join(left_out)}: {next(iter(left_out.values()))}")
    save_npz(out / "scores.npz", scores)
    pool, own, fits = matrices.pool, scores[chosen.name], sample_fits(matrices.evidence)
    write_samples(out / "samples.csv", pool, own, fits, scores)
    public = public_figures(pool, own, section.fpr)
    metrics = {
        "attack": chosen.name,
        "fpr": section.fpr,
        "models": len(matrices.shadows.model),
        "missing": missing,
        "samples": len(pool),
        "shadow_accuracy": {
            "out": _mean(matrices.shadows.accuracy),
            "in": _mean(matrices.shadows.accuracy_in),
        },
        "selection": selection.to_dict() if selection else None,
        "private": private_estimate(pool, selection),
        "public": public,
        "public_by_class": figures_of_classes(pool, own, section.fpr) if public else None,
        "epsilon": epsilon_bound(pool, own),
        "exposed": most_exposed(pool, own, fits),
    }
    write_text(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    submit_private(out, pool, own, say)
    return metrics


def _tell_missing(out: Path, shadows: Chunk, say: Callable[[str], None]) -> list[int]:
    """Says which models that the run's configuration asks for are not there; their numbers."""
    missing = missing_models(out, set(shadows.model.tolist()))
    if missing:
        inside = shadows.mask.sum(0)
        suffices = enough(int(inside.min()), int(len(shadows.mask) - inside.max()))
        say(f"shadows: {len(shadows.model)} models are there, missing are {ranges(missing)}; {suffices}")
    return missing


def submit_private(out: Path, pool: Pool, score: np.ndarray, say: Callable[[str], None]) -> None:
    """Writes `submission.csv` of the private samples, where there are any; `score` is of all, `[sample]`."""
    private = ~pool.public
    if private.any():
        write_submission(out / "submission.csv", pool.ids[private].tolist(), to_unit_interval(score[private]))
        say(f"submission: {int(private.sum())} rows in {out / 'submission.csv'}")


def named_attack(name: str) -> Attack:
    """The standard attack of that name.

    Raises:
        InputError: There is none.
    """
    attacks = {attack.name: attack for attack in standard_attacks()}
    if name not in attacks:
        close = difflib.get_close_matches(name, attacks, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"attack.name: {name!r} is unknown; {hint}allowed are {AUTO}, {', '.join(attacks)}")
    return attacks[name]


def select_attack(evidence: Evidence, section: AttackSection) -> Selection:
    """Chooses among the standard attacks by letting shadows play the target.

    Raises:
        InputError: The shadows do not allow it, for a reason that `select` gives; says what can be named instead.
    """
    try:
        return select(evidence, distinct_attacks(evidence), section.fpr, targets=section.targets)
    except InputError as error:
        raise InputError(f"attack.name: {AUTO}: {error}; or name one of {', '.join(attack_names())}") from error


def attack_names() -> list[str]:
    """What `attack.name` may be, beside `auto`."""
    return [attack.name for attack in standard_attacks()]


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))
