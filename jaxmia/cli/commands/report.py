"""The command that reports on a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro

from jaxmia.errors import InputError
from jaxmia.runs.rundir import RunDir

if TYPE_CHECKING:
    from jaxmia.config import Config


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
        from jaxmia.report.page import NO_IMAGES

        own = RunDir(self.out).config
        config = configure(self.config or (own if own.exists() else None), overrides)
        images, reason = None, NO_IMAGES
        if config.challenge.public and config.challenge.private:
            try:
                images = _read_images(self.out, config)
            except InputError as error:
                reason = f"{' '.join(str(error).split())}."
        write_report(self.out, truth=self.truth, images=images, no_images=reason, paper=self.paper)


def _read_images(out: Path, config: "Config") -> np.ndarray:
    """Reads the images of the run's samples, `[sample, height, width, channel]`.

    Raises:
        InputError: A file of the challenge is missing or invalid, or contains other samples than the run.
    """
    from bridge.open import open_pool
    from jaxmia.data.pool import Pool

    challenge, pool = config.challenge, open_pool(config.challenge)
    if pool.images is None or not np.array_equal(pool.ids, Pool.load(RunDir(out).pool).ids):
        raise InputError(f"{challenge.public} and {challenge.private}: contain other samples than {RunDir(out).pool}")
    return pool.images
