"""What a run directory holds once it is scored, read for the report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from jaxmia.attacks import Aligned, Attack, Evidence, Margin, RankFusion
from jaxmia.attacks.catalogue import standard_attack
from jaxmia.config import parse_as
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.evaluation import metrics as measures
from jaxmia.files import load_npz, read_json
from jaxmia.leaderboard.submission import match_truth, read_truth
from jaxmia.runs.matrices import read_matrices
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.store import Chunk, ScoreStore, metadata_of

_ALIGNED = "-aligned"


class _Plain(BaseModel):
    """Other fields may be there; they are not read."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Interval(_Plain):
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Tpr(_Plain):
    """TPR at a limit of the FPR; `resampled` is None where there are too few non-members to measure it."""

    fpr: float
    resampled: Interval | None


class Figures(_Plain):
    """What was measured on samples of known membership."""

    members: int
    nonmembers: int
    auc: Interval
    tpr: tuple[Tpr, ...]

    def at(self, fpr: float) -> Interval | None:
        """The TPR at that limit, None where it was not measured."""
        return next((entry.resampled for entry in self.tpr if entry.fpr == fpr), None)


class Candidate(_Plain):
    """How an attack did on the pseudo-targets; None where it could not be used."""

    name: str
    tpr: float | None
    std_error: float | None


class Selection(_Plain):
    """How the attack was chosen."""

    chosen: str
    targets: int = Field(ge=2)
    expected: float
    expected_error: float = Field(ge=0)
    results: tuple[Candidate, ...]


class Epsilon(_Plain):
    """A lower bound on the target's epsilon at `delta`; None where there is none."""

    lower: float | None
    delta: float
    confidence: float


class Metrics(_Plain):
    """`metrics.json`."""

    attack: str
    own_code: bool = False
    fpr: float = Field(gt=0, lt=1)
    selection: Selection | None
    public: Figures | None
    epsilon: Epsilon | None = None


@dataclass(frozen=True)
class ChunkRecord:
    """How a chunk of shadows was made.

    Attributes:
        models: How many it holds.
        members: Mean number of samples that one of them was trained on.
        metadata: Versions, device, seconds, recipe, as far as they were recorded.
    """

    models: int
    members: float
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Truth:
    """Private samples whose membership is known after all.

    Attributes:
        scores: Of the chosen attack, `[known]`.
        members: bool `[known]`.
        figures: What they come to, as `jaxmia evaluate` gives it.
    """

    scores: np.ndarray
    members: np.ndarray
    figures: measures.Figures


@dataclass(frozen=True)
class Results:
    """A scored run.

    Attributes:
        pool: Without images.
        evidence: The target's and the shadows' margins.
        shadows: All chunks as one.
        chunks: How each chunk was made.
        correct: Whether the target classifies each sample rightly, bool `[sample]`; None where it was not recorded.
        scores: Of each attack by name, float64 `[sample]`.
        metrics: What `metrics.json` says.
        config: The text of `config.yaml`; empty where there is none.
        truth: Scores and membership of private samples; None where no truth was given.
    """

    pool: Pool
    evidence: Evidence
    shadows: Chunk
    chunks: tuple[ChunkRecord, ...]
    correct: np.ndarray | None
    scores: dict[str, np.ndarray]
    metrics: Metrics
    config: str
    truth: Truth | None

    @property
    def score(self) -> np.ndarray:
        """Of the attack whose scores are submitted, `[sample]`."""
        return self.scores[self.metrics.attack]

    @property
    def members(self) -> np.ndarray:
        """Which public samples are members, bool `[public sample]`."""
        return self.pool.membership[self.pool.public] == 1

    @property
    def has_public_figures(self) -> bool:
        """Whether there are public members and public non-members."""
        return bool(self.members.any() and not self.members.all())

    @property
    def attack(self) -> Attack | None:
        """The attack whose scores are submitted; None for one of the user's own: no code that a file names is run."""
        return None if self.metrics.own_code else recorded_attack(self.metrics.attack)

    @property
    def target_margin(self) -> np.ndarray:
        """The target's margin in view 0, nats, `[sample]`, on the shadows' scale where the attack puts it there."""
        if not self.metrics.attack.endswith(_ALIGNED):
            return self.evidence.target[0]
        first = Evidence(
            self.evidence.target[:1], self.evidence.shadows[:, :1], self.evidence.mask, self.evidence.labels
        )
        return Aligned(Margin())(first)


def read_results(out: Path, truth: Path | None = None) -> Results:
    """Reads a run directory; `config.yaml` may lack.

    Args:
        out: The run directory.
        truth: CSV of `id,membership` of private samples, where it is known.

    Raises:
        InputError: A file is missing, damaged, or does not fit the others.
    """
    path = RunDir(out).metrics
    metrics = parse_as(Metrics, read_json(path, "jaxmia score"), str(path))
    matrices = read_matrices(out)
    scores = _read_scores(RunDir(out).scores, metrics.attack, len(matrices.pool))
    config = RunDir(out).config
    return Results(
        pool=matrices.pool,
        evidence=matrices.evidence,
        shadows=matrices.shadows,
        chunks=tuple(_read_record(path) for path in ScoreStore(RunDir(out).shadows).paths()),
        correct=_read_correct(RunDir(out).target, len(matrices.pool)),
        scores=scores,
        metrics=metrics,
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        truth=_judge(matrices.pool, scores[metrics.attack], truth, metrics.fpr) if truth else None,
    )


def recorded_attack(name: str) -> Attack:
    """The attack that goes by that name in `metrics.json`: a standard one, a fusion of them, or one put on scale.

    Raises:
        InputError: There is none.
    """
    if name.startswith("fusion(") and name.endswith(")"):
        return RankFusion(tuple(standard_attack(part) for part in name[len("fusion(") : -1].split("+")))
    try:
        return standard_attack(name)
    except InputError:
        if not name.endswith(_ALIGNED):
            raise
        return Aligned(recorded_attack(name.removesuffix(_ALIGNED)))


def _judge(pool: Pool, scores: np.ndarray, truth: Path, fpr: float) -> Truth:
    private = ~pool.public
    known, members = match_truth(pool.ids[private], scores[private], *read_truth(truth))
    return Truth(known, members, measures.figures(known, members, tuple(sorted({fpr, *measures.FPRS}, reverse=True))))


def _read_scores(path: Path, attack: str, samples: int) -> dict[str, np.ndarray]:
    scores = load_npz(path, required=(attack,))
    for name, values in scores.items():
        if values.dtype.kind != "f" or values.shape != (samples,):
            raise InputError(f"{path}: {name} is {values.dtype} {list(values.shape)}, expected {samples} floats")
        if np.isnan(values).any():
            raise InputError(f"{path}: {name} of sample {np.flatnonzero(np.isnan(values))[0]} is nan")
    return scores


def _read_correct(path: Path, samples: int) -> np.ndarray | None:
    correct = load_npz(path).get("correct")
    fits = correct is not None and correct.dtype == np.bool_ and correct.shape == (samples,)
    return correct if fits else None


def _read_record(path: Path) -> ChunkRecord:
    arrays = load_npz(path, required=("mask",), only=("mask", "metadata"))
    return ChunkRecord(len(arrays["mask"]), float(arrays["mask"].sum(1).mean()), metadata_of(path, arrays))
