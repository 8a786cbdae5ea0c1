"""Reads the contents of a scored run directory for the report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmia.attacks import Aligned, Attack, Evidence, Margin
from jaxmia.attacks.record import rebuild_attack
from jaxmia.config import Config, load_config
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.evaluation import metrics as measures
from jaxmia.files import load_npz
from jaxmia.leaderboard.submission import match_truth, read_truth
from jaxmia.runs.matrices import Matrices, read_matrices
from jaxmia.runs.metrics import RunMetrics
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.store import ScoreStore, metadata_of


@dataclass(frozen=True)
class ChunkRecord:
    """Provenance of a chunk of shadows.

    Attributes:
        models: Number of models in the chunk.
        members: Mean number of samples that a model was trained on.
        metadata: Recorded versions, device, seconds and recipe.
    """

    models: int
    members: float
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Truth:
    """Private samples whose true membership is given.

    Attributes:
        scores: Scores of the submitted attack, `[known]`.
        members: Whether each sample is a member, bool `[known]`.
        figures: Figures of the scores, as in `jaxmia evaluate`.
    """

    scores: np.ndarray
    members: np.ndarray
    figures: measures.Figures


@dataclass(frozen=True)
class RunConfig:
    """A configuration and the text of its file."""

    fields: Config
    text: str


@dataclass(frozen=True)
class Results:
    """Results of a scored run, or of several fused runs.

    Attributes:
        pool: The scored samples, without images.
        free: Whether each sample of the run is scored, bool `[sample of the run]`; memberships of the others are fixed.
        matrices: Margins of the target and the shadows; None for fused runs, which have none of their own.
        chunks: Provenance of each chunk of shadows.
        correct: Whether the target classifies each sample correctly, bool `[sample]`; None if not recorded.
        scores: Scores of each attack by name, float64 `[sample]`.
        metrics: Contents of `metrics.json`.
        config: Configuration of the run; None if it has none.
        truth: Scores and true membership of private samples; None if not given.
    """

    pool: Pool
    free: np.ndarray
    matrices: Matrices | None
    chunks: tuple[ChunkRecord, ...]
    correct: np.ndarray | None
    scores: dict[str, np.ndarray]
    metrics: RunMetrics
    config: RunConfig | None
    truth: Truth | None

    @property
    def score(self) -> np.ndarray:
        """Scores of the submitted attack, `[sample]`."""
        return self.scores[self.metrics.attack]

    @property
    def members(self) -> np.ndarray:
        """Whether each public sample is a member, bool `[public sample]`."""
        return self.pool.membership[self.pool.public] == 1

    @property
    def has_public_figures(self) -> bool:
        """Whether there are public members and public non-members."""
        return bool(self.members.any() and not self.members.all())

    @property
    def attack(self) -> Attack | None:
        """The submitted attack; None for fused runs and for an attack of the user's own."""
        record = self.metrics.attack_record
        return rebuild_attack(record) if record else None


def target_margin(matrices: Matrices, attack: Attack | None) -> np.ndarray:
    """The target's margins in view 0 in nats, `[sample]`, aligned with the shadows if the attack aligns them."""
    evidence = matrices.evidence
    if not isinstance(attack, Aligned):
        return evidence.target[0]
    return Aligned(Margin())(Evidence(evidence.target[:1], evidence.shadows[:, :1], evidence.mask, evidence.labels))


def read_results(out: Path, truth: Path | None = None) -> Results:
    """Reads a run directory; `config.yaml` is optional.

    Args:
        out: Run directory.
        truth: CSV of `id,membership` with the true memberships of private samples, if known.

    Raises:
        InputError: A file is missing, damaged, or inconsistent with the others.
    """
    run, metrics = RunDir(out), RunMetrics.read(out)
    matrices = None if metrics.fused else read_matrices(out)
    everyone = matrices.everyone if matrices else Pool.load(run.pool)
    scores = _read_scores(run.scores, metrics.attack, len(everyone))
    free = matrices.free if matrices else ~np.isnan(scores[metrics.attack])
    pool, scores = everyone.take(free), {name: values[free] for name, values in scores.items()}
    for name, values in scores.items():
        if np.isnan(values).any():
            raise InputError(f"{run.scores}: {name} of sample {np.flatnonzero(free)[np.isnan(values)][0]} is nan")
    correct = _read_correct(run.target, len(everyone)) if matrices else None
    return Results(
        pool=pool,
        free=free,
        matrices=matrices,
        chunks=tuple(_read_record(path) for path in ScoreStore(run.shadows).paths()) if matrices else (),
        correct=None if correct is None else correct[free],
        scores=scores,
        metrics=metrics,
        config=_read_config(run.config) if run.config.is_file() else None,
        truth=_judge(pool, scores[metrics.attack], truth, metrics.fpr, run.scores) if truth else None,
    )


def _read_config(path: Path) -> RunConfig:
    return RunConfig(load_config(path), path.read_text(encoding="utf-8"))


def _judge(pool: Pool, scores: np.ndarray, truth: Path, fpr: float, source: Path) -> Truth:
    private = ~pool.public
    if not private.any():
        raise InputError(f"{truth}: is not needed: the run has no private samples, since every membership is known")
    ids, members = read_truth(truth)
    known, members = match_truth(pool.ids[private], scores[private], ids, members, truth=truth, source=source)
    return Truth(known, members, measures.figures(known, members, tuple(sorted({fpr, *measures.FPRS}, reverse=True))))


def _read_scores(path: Path, attack: str, samples: int) -> dict[str, np.ndarray]:
    scores = load_npz(path, required=(attack,))
    for name, values in scores.items():
        if values.dtype.kind != "f" or values.shape != (samples,):
            raise InputError(f"{path}: {name} is {values.dtype} {list(values.shape)}, expected {samples} floats")
    return scores


def _read_correct(path: Path, samples: int) -> np.ndarray | None:
    correct = load_npz(path).get("correct")
    fits = correct is not None and correct.dtype == np.bool_ and correct.shape == (samples,)
    return correct if fits else None


def _read_record(path: Path) -> ChunkRecord:
    arrays = load_npz(path, required=("mask",), only=("mask", "metadata"))
    return ChunkRecord(len(arrays["mask"]), float(arrays["mask"].sum(1).mean()), metadata_of(path, arrays))
