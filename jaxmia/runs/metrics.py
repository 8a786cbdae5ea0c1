"""What a scored run comes to: `metrics.json`, its one writer and its one reader."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jaxmia.attacks.record import AttackRecord
from jaxmia.config import Share, parse_as
from jaxmia.evaluation.metrics import Estimate, Figures
from jaxmia.evaluation.selection import CandidateResult, Selection
from jaxmia.files import read_json, write_text
from jaxmia.runs.rundir import RunDir

_MAX_COUNT = 2**40
Rate = Annotated[float, Field(gt=0, lt=1)]


class _Part(BaseModel):
    """Fields of a later version are not read."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class SelectionSummary(_Part):
    """How `auto` chose the attack."""

    chosen: str
    """Name of the attack."""
    candidate: str
    """Name of the candidate that won, before it was put on the shadows' scale."""
    fpr: Rate
    targets: Annotated[int, Field(ge=2, le=_MAX_COUNT)]
    """Number of shadows that played the target."""
    expected: Share
    """Mean TPR of those that had no part in the choice."""
    expected_error: Share
    """Standard error of `expected`."""
    results: tuple[CandidateResult, ...]
    """All candidates."""

    @property
    def aligned(self) -> bool:
        """Whether the winner was put on the shadows' scale because the target is unlike them."""
        return self.chosen != self.candidate

    @classmethod
    def of(cls, selection: Selection) -> "SelectionSummary":
        """What is worth keeping of a selection."""
        return cls(
            chosen=selection.chosen.name,
            candidate=selection.candidate.name,
            fpr=selection.fpr,
            targets=selection.targets,
            expected=selection.expected,
            expected_error=selection.expected_error,
            results=selection.results,
        )


class ShadowAccuracy(_Part):
    """Mean accuracy of the shadows; None where it was not recorded."""

    model_config = ConfigDict(populate_by_name=True)

    out: float | None
    """On samples that they were not trained on."""
    in_: Annotated[float | None, Field(alias="in")]
    """On samples that they were trained on."""


class PrivateEstimate(_Part):
    """The TPR to expect on the private samples, with its 95 % prediction interval."""

    fpr: Rate
    samples: Annotated[int, Field(ge=0, le=_MAX_COUNT)]
    """Number of private samples."""
    targets: Annotated[int, Field(ge=2, le=_MAX_COUNT)]
    """Number of shadows that played the target."""
    value: Share
    low: Share
    high: Share

    @property
    def estimate(self) -> Estimate:
        """The figure and its interval."""
        return Estimate(self.value, self.low, self.high)


class EpsilonBound(_Part):
    """A lower bound on the epsilon of the target's training, or why there is none."""

    lower: float | None
    delta: float
    confidence: float
    reason: str | None
    """Why `lower` is None."""


class SampleSummary(_Part):
    """A sample, its score, and what the target and its shadows say of it in view 0, margins in nats."""

    id: str
    label: int
    membership: Literal[0, 1] | None
    """None where it is unknown."""
    score: float | None
    """None where it is infinite."""
    target: float | None = None
    in_count: int = 0
    in_mean: float | None = None
    in_std: float | None = None
    out_count: int = 0
    out_mean: float | None = None
    out_std: float | None = None


class FamilySummary(_Part):
    """One of the runs that were fused."""

    run: str
    """Its directory."""
    attack: str
    """Its own attack."""


class Uninformed(_Part):
    """The attack that an informed audit is compared with: as many shadows, but all their members drawn at random."""

    attack: str
    """Name of its attack."""
    figures: Figures
    auc_gain: Estimate
    """By how much the AUC of the audit is above its own, paired by sample."""
    tpr_gain: Estimate | None
    """The same of the TPR at `fpr`; None where that allows no false alarm."""


class AuditSummary(_Part):
    """An informed audit: each sample scored by shadows that took the memberships outside of its fold as told."""

    folds: int
    models: int
    """Number of shadow models in all folds together."""
    uninformed: Uninformed | None = None
    """None where it was not compared."""


class RunMetrics(_Part):
    """`metrics.json`."""

    attack: str
    """Name of the attack whose scores are submitted."""
    attack_record: AttackRecord | None
    """The attack as data; None for fused runs, each of which has its own."""
    fpr: Rate
    """The false positive rate that counts."""
    models: int
    """Number of shadow models; 0 for fused runs."""
    missing: tuple[int, ...]
    """Models that the configuration asks for and that are not there."""
    diverged: tuple[int, ...]
    """Models that were left out because their training diverged."""
    samples: int
    """Number of samples, public and private."""
    told: int = 0
    """How many of them every shadow took as told (`shadow.known`); they are not scored."""
    rounds: int = 1
    """Number of rounds in which the shadows were trained (`shadow.rounds`)."""
    shadow_accuracy: ShadowAccuracy | None
    misalignment: float | None
    """How far the target's margins are from its shadows', in standard deviations (`jaxmia.attacks.misalignment`)."""
    unlike_shadows: bool
    """Whether that is too far for a target of the shadows' recipe (`jaxmia.attacks.misaligned`)."""
    matched: bool
    """Whether `jaxmia match` chose the shadows' recipe, by the public labels."""
    selection: SelectionSummary | None
    """None where the attack was named."""
    private: PrivateEstimate | None
    """None where nothing can be promised."""
    public: Figures | None
    """None without public members and public non-members."""
    public_by_class: dict[str, Figures | None] | None
    """The same by label."""
    epsilon: EpsilonBound
    vulnerable: tuple[SampleSummary, ...]
    """The samples with the highest scores, highest first."""
    audit: AuditSummary | None = None
    """None for what is no informed audit."""
    families: tuple[FamilySummary, ...] = ()
    """The runs that were fused; none for a run of its own."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return self.model_dump(mode="json", by_alias=True)

    def to_json(self) -> str:
        """The text of `metrics.json`."""
        return json.dumps(self.to_dict(), indent=2)

    def write(self, out: Path) -> None:
        """Writes `metrics.json` of a run directory, whole or not at all."""
        write_text(RunDir(out).metrics, self.to_json() + "\n")

    @classmethod
    def read(cls, out: Path) -> "RunMetrics":
        """Reads `metrics.json` of a run directory.

        Raises:
            InputError: It is missing, no JSON, or lacks a field; every field that is wrong is named.
        """
        path = RunDir(out).metrics
        return parse_as(cls, read_json(path, f"jaxmia score --out {out}"), str(path))
