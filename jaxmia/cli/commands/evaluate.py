"""Commands that check results: evaluate, validate."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxmia.cli.overrides import refuse_overrides
from jaxmia.errors import InputError
from jaxmia.runs.rundir import RunDir

logger = logging.getLogger(__name__)


@dataclass
class Evaluate:
    """Computes AUC and TPR at 5 %, 1 % and 0.1 % FPR from the true memberships, with 95 % intervals.

    Example: jaxmia evaluate runs/demo --truth runs/demo/truth.csv
    """

    scores: Annotated[Path, tyro.conf.Positional]
    """Run directory (its submission.csv is read), or a CSV of id,score."""
    truth: Path
    """CSV of id,membership with the true memberships."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON instead of a table."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Computes and prints the figures."""
        refuse_overrides(overrides)
        from jaxmia.cli.display import figures_table, output
        from jaxmia.evaluation.metrics import figures
        from jaxmia.files import json_text
        from jaxmia.leaderboard.submission import match_truth, read_scores_csv, read_truth

        path = _submission_of(self.scores) if self.scores.is_dir() else self.scores
        ids, given = read_scores_csv(path)
        scores, members = match_truth(ids, given, *read_truth(self.truth), truth=self.truth, source=path)
        if left_out := len(ids) - len(scores):
            logger.info(
                f"{path}: {left_out:,} of its {len(ids):,} scores are left out: their ids are not in {self.truth}"
            )
        result = figures(scores, members)
        if self.json:
            output(json_text(result.to_dict(), indent=2))
        else:
            output(figures_table(result, f"{path}: {result.members} members, {result.nonmembers} non-members"))


def _submission_of(out: Path) -> Path:
    """The submission of a run directory.

    Raises:
        InputError: There is none; the message says why.
    """
    run = RunDir(out)
    if run.submission.exists():
        return run.submission
    if run.metrics.exists():
        raise InputError(
            f"{out}: has no submission.csv, as no membership was unknown (as in an audit); its figures are in "
            f"{run.metrics}, and jaxmia report --out {out} shows them"
        )
    raise InputError(f"{out}: has no submission.csv; jaxmia score --out {out} writes it once models are trained")


@dataclass
class Validate:
    """Checks a submission by the rules of the course's server; prints every broken rule, with exit status 1.

    Example: jaxmia validate runs/mini/submission.csv --private priv.pt
    """

    submission: Annotated[Path, tyro.conf.Positional]
    """CSV of id,score."""
    private: Path
    """File of the private samples (priv.pt)."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Checks the file."""
        refuse_overrides(overrides)
        from bridge.challenge import load_ids
        from jaxmia.cli.display import output
        from jaxmia.leaderboard.submission import read_submission, warn_of_ties

        ids = load_ids(self.private)
        submission = read_submission(self.submission, ids.tolist())
        if ties := warn_of_ties(submission):
            logger.warning(ties)
        output(f"{self.submission}: valid, {len(ids)} rows")
