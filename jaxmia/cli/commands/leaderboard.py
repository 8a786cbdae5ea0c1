"""Commands for leaderboards: submit, leaderboard."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxmia.cli.overrides import refuse_overrides

logger = logging.getLogger(__name__)

Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclass
class Submit:
    """Checks and uploads a submission; respects the cooldown, and asks before it repeats an unanswered upload.

    The key is read from JAXMIA_API_KEY, in the environment or in a file .env, never from the command line.

    Example: jaxmia submit runs/mini/submission.csv --private priv.pt --wait
    """

    submission: Annotated[Path, tyro.conf.Positional]
    """CSV of id,score."""
    private: Path
    """File of the private samples (priv.pt)."""
    url: str | None = None
    """Address of the leaderboard; by default JAXMIA_LEADERBOARD_URL."""
    task: str | None = None
    """Name of the task; by default JAXMIA_TASK, else 01-mia."""
    wait: Switch = False
    """Wait for the end of the cooldown, with a countdown, and for other uploads with the same ledger."""
    dry_run: Switch = False
    """Check the file and print where and when it would be sent; needs neither key nor address."""
    resend: Switch = False
    """Send a file again whose earlier upload was not answered, if the leaderboard does not show it."""
    ledger: Path = Path("submissions.jsonl")
    """File of JSON lines that records uploads; a team may share it."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Submits the file."""
        refuse_overrides(overrides)
        from bridge.challenge import load_ids
        from jaxmia.cli.display import output
        from jaxmia.leaderboard.client import dry_run, submit
        from jaxmia.leaderboard.settings import find_settings
        from jaxmia.leaderboard.submission import read_submission, warn_of_ties

        submission = read_submission(self.submission, load_ids(self.private).tolist())
        if ties := warn_of_ties(submission):
            logger.warning(ties)
        settings = find_settings(self.url, self.task)
        if self.dry_run:
            output(dry_run(submission, settings, ledger=self.ledger))
            return
        board = settings.leaderboard()
        record = submit(submission, board, ledger=self.ledger, wait=self.wait, resend=self.resend)
        output(record.answer)


@dataclass
class Leaderboard:
    """Runs a practice leaderboard on this machine, with the course's interface, rules and cooldowns, until Ctrl-C.

    Example: jaxmia leaderboard --private runs/demo/priv.pt --truth runs/demo/truth.csv
    """

    private: Path
    """File of the private samples (priv.pt)."""
    truth: Path
    """CSV of id,membership with the true memberships."""
    teams: Path | None = None
    """CSV of team,key; by default there is one team with a new key, which is printed."""
    port: int = 8026
    """Port on the loopback interface; 0 selects a free one."""
    seed: int = 0
    """Seed for drawing the public part of the samples."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Runs the server."""
        refuse_overrides(overrides)
        from bridge.challenge import load_ids
        from jaxmia.cli.display import announce, output, ranking_table
        from jaxmia.leaderboard.server import serve

        ids = load_ids(self.private).tolist()
        standings = serve(ids, self.truth, announce=announce, teams=self.teams, port=self.port, seed=self.seed)
        output(ranking_table(standings))
