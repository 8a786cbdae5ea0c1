"""Commands around a leaderboard: submit, leaderboard."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxmia.cli.overrides import refuse_overrides

Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclass
class Submit:
    """Validates a submission, then uploads it; knows the cooldown and never sends twice what may have arrived.

    The key is read from JAXMIA_API_KEY, in the environment or in a file .env, never from the command line.

    Example: jaxmia submit runs/mini/submission.csv --private priv.pt --wait
    """

    submission: Annotated[Path, tyro.conf.Positional]
    """CSV of id,score."""
    private: Path
    """File of the samples in question (priv.pt)."""
    url: str | None = None
    """Address of the leaderboard; by default JAXMIA_LEADERBOARD_URL."""
    task: str | None = None
    """Name of the task; by default JAXMIA_TASK, else 01-mia."""
    wait: Switch = False
    """Wait for the end of a cooldown, with a countdown."""
    dry_run: Switch = False
    """Do everything but send."""
    resend: Switch = False
    """You looked: an earlier upload of this file that had no answer did not arrive."""
    ledger: Path = Path("submissions.jsonl")
    """Where submissions are remembered."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Submits."""
        refuse_overrides(overrides)
        from bridge.challenge import load_split
        from jaxmia.cli.display import output
        from jaxmia.leaderboard.client import dry_run, read_settings, read_valid, submit

        ids = load_split(self.private, known=False).ids.tolist()
        read_valid(self.submission, ids)  # before the settings, so that a file can be put right without a key
        board = read_settings(self.url, self.task)
        if self.dry_run:
            output(dry_run(self.submission, ids, board, ledger=self.ledger))
            return
        record = submit(self.submission, ids, board, ledger=self.ledger, wait=self.wait, resend=self.resend)
        output(record.answer)


@dataclass
class Leaderboard:
    """A practice leaderboard on this machine, with the course's interface, rules and cooldowns; Ctrl-C ends it.

    Example: jaxmia leaderboard --private runs/demo/priv.pt --truth runs/demo/truth.csv
    """

    private: Path
    """File of the samples in question (priv.pt)."""
    truth: Path
    """CSV of id,membership."""
    teams: Path | None = None
    """CSV of team,key; without it there is one team, whose key is made up and shown."""
    port: int = 8026
    """Port on loopback; 0 takes a free one."""
    seed: int = 0
    """Seed of the split into a public and a final share."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Serves."""
        refuse_overrides(overrides)
        from bridge.challenge import load_split
        from jaxmia.cli.display import announce, output, ranking_table
        from jaxmia.leaderboard.server import serve

        ids = load_split(self.private, known=False).ids.tolist()
        standings = serve(ids, self.truth, announce=announce, teams=self.teams, port=self.port, seed=self.seed)
        output(ranking_table(standings))
