"""The results of a scored run, `metrics.json`."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from jaxmia.attacks.record import AttackRecord
from jaxmia.config import Share
from jaxmia.evaluation.epsilon import EpsilonBound
from jaxmia.evaluation.intervals import Estimate
from jaxmia.evaluation.metrics import Figures
from jaxmia.evaluation.selection import CandidateResult, Selection
from jaxmia.evaluation.unlike import Likeness
from jaxmia.files import read_json, write_text
from jaxmia.runs.rundir import RunDir
from jaxmia.validation import parse_as

_MAX_COUNT = 2**40
Rate = Annotated[float, Field(gt=0, lt=1)]


class _Part(BaseModel):
    """Part of the results; fields of later versions are ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class SelectionSummary(_Part):
    """Selection of the attack by `auto`."""

    chosen: str
    """Name of the attack."""
    candidate: str
    """Name of the candidate that won, without alignment."""
    fpr: Rate
    targets: Annotated[int, Field(ge=2, le=_MAX_COUNT)]
    """Number of pseudo-targets."""
    expected: Share
    """Mean TPR on pseudo-targets that were not used for the selection."""
    expected_error: Share
    """Standard error of `expected`."""
    results: tuple[CandidateResult, ...]
    """All candidates."""

    @property
    def aligned(self) -> bool:
        """Whether the winner is applied with alignment, because the target is unlike its shadows."""
        return self.chosen != self.candidate

    @property
    def measured(self) -> str:
        """Name of the result that stands for the chosen attack: its own, or else that of `candidate`.

        An attack that is aligned only for this target is not applied to pseudo-targets in that form.
        """
        own = any(row.name == self.chosen and row.tpr is not None for row in self.results)
        return self.chosen if own else self.candidate

    @classmethod
    def of(cls, selection: Selection) -> "SelectionSummary":
        """Summarises a selection."""
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
    """Mean accuracy of the shadows; None if not recorded."""

    model_config = ConfigDict(populate_by_name=True)

    out: float | None
    """Accuracy on OUT samples."""
    in_: Annotated[float | None, Field(alias="in")]
    """Accuracy on IN samples."""


class PrivateEstimate(_Part):
    """TPR expected on the private samples, with its 95 % prediction interval."""

    fpr: Rate
    samples: Annotated[int, Field(ge=0, le=_MAX_COUNT)]
    """Number of private samples."""
    targets: Annotated[int, Field(ge=2, le=_MAX_COUNT)]
    """Number of pseudo-targets."""
    value: Share
    low: Share
    high: Share

    @property
    def estimate(self) -> Estimate:
        """The expected TPR and its interval."""
        return Estimate(self.value, self.low, self.high)


class SampleSummary(_Part):
    """A sample with its score and the margins of the target and its shadows in view 0, in nats."""

    id: str
    label: int
    membership: Literal[0, 1] | None
    """None if unknown."""
    score: float | None
    """None if infinite."""
    target: float | None = None
    in_count: int = 0
    in_mean: float | None = None
    in_std: float | None = None
    out_count: int = 0
    out_mean: float | None = None
    out_std: float | None = None
    gap: float | None = None
    """Standardised distance between IN and OUT margins (`jaxmia.attacks.sample_fits`)."""


class FusedRun(_Part):
    """One of several fused runs."""

    run: str
    """Directory of the run."""
    attack: str
    """Attack of the run."""


class Uninformed(_Part):
    """The attack that an informed audit is compared with: as many shadows as a fold has, with random masks."""

    attack: str
    """Name of the attack."""
    figures: Figures
    auc_gain: Estimate
    """AUC of the audit minus that of this attack, paired by sample."""
    tpr_gain: Estimate | None
    """The same for the TPR at `fpr`; None if that allows no false positive."""


class AuditSummary(_Part):
    """An informed audit, in which each sample is scored with the memberships outside its fold known."""

    folds: int
    models: int
    """Total number of shadow models over all folds."""
    uninformed: Uninformed | None = None
    """None if there was no comparison."""


def part_name(place: int) -> str:
    """Name in `scores.npz` of the scores of the fused run at this place, counted from 1."""
    return f"run-{place}"


class RunMetrics(_Part):
    """Contents of `metrics.json`."""

    attack: str
    """Name of the submitted attack."""
    attack_record: AttackRecord | None
    """The submitted attack as data; None for fused runs, each of which has its own."""
    fpr: Rate
    """Configured false positive rate (`attack.fpr`)."""
    models: int
    """Number of shadow models; 0 for fused runs."""
    missing: tuple[int, ...]
    """Numbers of configured models that are missing."""
    diverged: tuple[int, ...]
    """Numbers of models that are left out because their training diverged."""
    samples: int
    """Number of samples, public and private."""
    fixed: Annotated[int, Field(validation_alias=AliasChoices("fixed", "told"))] = 0
    """Number of samples with fixed membership (`shadow.known`), which are not scored. Earlier versions wrote `told`."""
    rounds: int = 1
    """Number of rounds in which the shadows were trained (`shadow.rounds`)."""
    shadow_accuracy: ShadowAccuracy | None
    misalignment: float | None
    """Distance of the target's margins from its shadows' in standard deviations (`jaxmia.evaluation.unlike`)."""
    unlike_shadows: bool
    """Whether this is too far for a target of the shadows' recipe."""
    target_network: str | None = None
    """Architecture of the target; None if it is not recorded."""
    shadow_network: str | None = None
    """Architecture of the shadows; None if it is not recorded."""
    matched: bool
    """Whether `jaxmia match` selected the shadows' recipe by the public labels."""
    selection: SelectionSummary | None
    """Selection of the attack by `auto`; None if the attack was named."""
    private: PrivateEstimate | None
    """Estimate for the private samples; None if there is none."""
    no_estimate: str | None = None
    """Reason why there are private samples but no estimate for them."""
    public: Figures | None
    """Figures on the public samples; None without public members and non-members."""
    public_by_class: dict[str, Figures | None] | None
    """Figures on the public samples of each class, by label."""
    epsilon: EpsilonBound
    vulnerable: tuple[SampleSummary, ...]
    """The samples with the widest gaps between IN and OUT margins, widest first; empty for fused runs."""
    audit: AuditSummary | None = None
    """Summary of an informed audit; None for other runs."""
    fused: Annotated[tuple[FusedRun, ...], Field(validation_alias=AliasChoices("fused", "families"))] = ()
    """The fused runs; empty for other runs. Earlier versions wrote `families`."""

    @property
    def likeness(self) -> Likeness | None:
        """Comparison of the target with its shadows; None for fused runs."""
        return None if self.misalignment is None else Likeness(self.misalignment, self.unlike_shadows)

    @property
    def other_network(self) -> str:
        """Clause that names the architectures of target and shadows; empty unless they are known to differ."""
        target, shadows = self.target_network, self.shadow_network
        known = target is not None and shadows is not None
        return f"its network is {target}, theirs {shadows}" if known and shadows not in (target, "target") else ""

    @property
    def aligned_for_target(self) -> bool:
        """Whether the attack is aligned for this target alone, so that pseudo-targets were attacked without it."""
        return self.selection is not None and self.selection.aligned

    @property
    def guessing(self) -> str | None:
        """The sentence that the attack cannot be told from guessing, so that no sample is known to be vulnerable.

        None if the public or the expected figure excludes guessing, and without public figures.
        """
        public, private = self.public, self.private
        if public is None or public.auc.low > 0.5 or (private and private.low > private.fpr):
            return None
        auc = public.auc
        return (
            f"the attack cannot be told from guessing: AUC {auc.value:.3f} on the public samples, 95 % interval "
            f"{auc.low:.3f} to {auc.high:.3f}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain JSON."""
        return self.model_dump(mode="json", by_alias=True)

    def to_json(self) -> str:
        """Formats as the text of `metrics.json`."""
        return json.dumps(self.to_dict(), indent=2)

    def write(self, out: Path) -> None:
        """Writes `metrics.json` to a run directory, atomically."""
        write_text(RunDir(out).metrics, self.to_json() + "\n")

    @classmethod
    def read(cls, out: Path) -> "RunMetrics":
        """Reads `metrics.json` of a run directory.

        Raises:
            InputError: It is missing, not JSON, or has invalid fields; the message names every one.
        """
        path = RunDir(out).metrics
        return parse_as(cls, read_json(path, f"jaxmia score --out {out}"), str(path))
