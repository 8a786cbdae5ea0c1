"""The command that reports on a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro

from jaxmia.runs.rundir import RunDir

if TYPE_CHECKING:
    from jaxmia.config import ChallengeConfig


@dataclass
class Report:
    """Writes DIR/report.html, a self-contained page, and DIR/figures/*.png.

    DIR must have been scored. Images of samples are shown if the files of the challenge are still available.

    Example: jaxmia report --out runs/demo --truth runs/demo/truth.csv --paper
    """

    out: Path
    """Folder for the results."""
    config: Path | None = None
    """Configuration file (YAML) that names the files of the challenge; by default that of the run, if it has one."""
    truth: Path | None = None
    """CSV of id,membership with the true memberships of private samples, if known."""
    paper: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also write the figures as PDF and the tables in LaTeX to DIR/figures/tables.tex."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Writes the report."""
        from jaxmia.cli.overrides import configure
        from jaxmia.report import write_report

        own = RunDir(self.out).config
        config = configure(self.config or (own if own.exists() else None), overrides)
        images, reason = _find_images(self.out, config.challenge)
        write_report(self.out, truth=self.truth, images=images, no_images=reason, paper=self.paper)


def _find_images(out: Path, challenge: "ChallengeConfig") -> tuple[np.ndarray | None, str]:
    """Finds the images of the run's samples, `[sample, height, width, channel]`, or the reason why there are none.

    Raises:
        InputError: A file of the challenge is invalid.
    """
    from bridge.open import open_pool
    from jaxmia.data.pool import Pool
    from jaxmia.report.page import NO_IMAGES

    if not challenge.public or not challenge.private:
        return None, NO_IMAGES
    for path in (challenge.public, challenge.private):
        if not path.is_file():
            return None, f"{path}: no such file."
    pool = open_pool(challenge)
    if not np.array_equal(pool.ids, Pool.load(RunDir(out).pool).ids):
        return None, f"{challenge.public} and {challenge.private}: contain other samples than {RunDir(out).pool}."
    return pool.images, ""
