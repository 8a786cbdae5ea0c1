"""The command that shows what a run found."""

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
    """Writes DIR/report.html, a page that needs nothing else, and DIR/figures/*.png.

    Needs a scored DIR. Pictures of samples are shown where the files of the challenge are still there.

    Example: jaxmia report --out runs/demo --truth runs/demo/truth.csv --paper
    """

    out: Path
    """Folder of the results."""
    config: Path | None = None
    """Configuration (YAML) that names the files of the challenge; by default the run's own, if there is one."""
    truth: Path | None = None
    """CSV of id,membership of private samples, where it is known."""
    paper: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write the figures as PDF too, and their tables in LaTeX to DIR/figures/tables.tex."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Reports."""
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
    """The images of the run's samples, `[sample, height, width, channel]`.

    Raises:
        InputError: A file of the challenge is missing or bad, or holds other samples than the run.
    """
    from bridge.open import open_pool
    from jaxmia.data.pool import Pool

    challenge, pool = config.challenge, open_pool(config.challenge)
    if pool.images is None or not np.array_equal(pool.ids, Pool.load(RunDir(out).pool).ids):
        raise InputError(f"{challenge.public} and {challenge.private}: hold other samples than {RunDir(out).pool}")
    return pool.images
