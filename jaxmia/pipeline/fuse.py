"""Families of shadows: several runs against one target, each by a recipe of its own, fused to one score."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from jaxmia.attacks.fusion import mean_rank
from jaxmia.config import parse_as
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.files import load_npz, read_json, save_npz, write_text
from jaxmia.pipeline.scoring import submit_private
from jaxmia.pipeline.summary import epsilon_bound, figures_of_classes, public_figures, write_samples
from jaxmia.runs.rundir import RunDir

FUSION = "family-fusion"


class Chosen(BaseModel):
    """What a family's `metrics.json` says of its scores; other fields may be there."""

    model_config = ConfigDict(frozen=True)

    attack: str
    fpr: float = Field(gt=0, lt=1)


@dataclass(frozen=True)
class Family:
    """A scored run.

    Attributes:
        run: Its directory.
        pool: Without images.
        chosen: Its attack, and the false positive rate that counts.
        score: Of that attack, float64 `[sample]`; higher means member.
    """

    run: Path
    pool: Pool
    chosen: Chosen
    score: np.ndarray


def fuse(out: Path, runs: Sequence[Path]) -> dict[str, Any]:
    """Fuses scored runs by the mean of the ranks that each one's chosen attack gives a sample.

    Each family keeps its own statistics and its own choice of attack; weights are equal, since weighing them by public
    labels would spoil the figure on these. There is no estimate for the private part: families of one seed share
    masks, so a shadow cannot play the target against another family.

    Args:
        out: Where `pool.npz`, `scores.npz`, `samples.csv`, `submission.csv` and `metrics.json` go.
        runs: Two run directories or more, of the same samples.

    Returns:
        What `metrics.json` holds.

    Raises:
        InputError: There are fewer than two runs, one comes twice or is `out`, lacks a file, or differs from the first
            in its samples or its false positive rate.
    """
    _refuse_repeats(out, runs)
    families = [read_family(run) for run in runs]
    for family in families[1:]:
        _refuse_other_samples(families[0], family)
    pool, fpr = families[0].pool, families[0].chosen.fpr
    fused = mean_rank([family.score for family in families])
    scores = {FUSION: fused, **{f"family-{place}": family.score for place, family in enumerate(families, start=1)}}
    pool.save(RunDir(out).pool)
    save_npz(RunDir(out).scores, scores)
    write_samples(RunDir(out).samples, pool, fused, {}, scores)
    public = public_figures(pool, fused, fpr)
    metrics = {
        "attack": FUSION,
        "fpr": fpr,
        "families": [{"run": str(family.run), "attack": family.chosen.attack} for family in families],
        "samples": len(pool),
        "selection": None,
        "private": None,
        "public": public,
        "public_by_class": figures_of_classes(pool, fused, fpr) if public else None,
        "epsilon": epsilon_bound(pool, fused),
    }
    write_text(RunDir(out).metrics, json.dumps(metrics, indent=2) + "\n")
    submit_private(out, pool, fused)
    return metrics


def read_family(run: Path) -> Family:
    """Reads a run directory that `jaxmia score` has written to.

    Raises:
        InputError: `metrics.json`, `pool.npz` or `scores.npz` is missing, damaged, or does not fit the others.
    """
    path = RunDir(run).metrics
    chosen = parse_as(Chosen, read_json(path, f"jaxmia score --out {run}"), str(path))
    pool = Pool.load(RunDir(run).pool)
    score = load_npz(RunDir(run).scores, required=(chosen.attack,))[chosen.attack]
    if score.dtype.kind != "f" or score.shape != (len(pool),) or np.isnan(score).any():
        raise InputError(
            f"{RunDir(run).scores}: {chosen.attack} is {score.dtype} {list(score.shape)}, expected {len(pool)} numbers"
        )
    return Family(run, pool, chosen, score)


def _refuse_repeats(out: Path, runs: Sequence[Path]) -> None:
    if len(runs) < 2:
        raise InputError(f"runs: {len(runs)} given, expected at least two to fuse")
    seen: set[Path] = {out.resolve()}
    for run in runs:
        if run.resolve() in seen:
            raise InputError(f"{run}: comes more than once among --out and the runs; each is to be another folder")
        seen.add(run.resolve())


def _refuse_other_samples(first: Family, other: Family) -> None:
    for name in ("ids", "labels", "membership"):
        if not np.array_equal(getattr(first.pool, name), getattr(other.pool, name)):
            raise InputError(f"{RunDir(other.run).pool}: {name} differ from those of {RunDir(first.run).pool}")
    if other.chosen.fpr != first.chosen.fpr:
        raise InputError(
            f"{RunDir(other.run).metrics}: fpr: {other.chosen.fpr} differs from {first.chosen.fpr} of "
            f"{RunDir(first.run).metrics}; score one of them again with --attack.fpr"
        )
