"""The command that fuses several runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxmia.cli.overrides import refuse_overrides


@dataclass
class Fuse:
    """Fuses scored runs of several recipes against the same target into one submission.

    Each run keeps its own statistics and its own attack; the ranks of a sample are averaged with equal weights.

    Example: jaxmia fuse runs/long runs/smoothed --out runs/fused
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories with scores of `jaxmia run` or `jaxmia score`."""
    out: Path
    """Folder for the results."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Fuses the runs."""
        refuse_overrides(overrides)
        from jaxmia.cli.display import expectation_lines, figures_table, output
        from jaxmia.pipeline.fuse import fuse

        metrics = fuse(self.out, self.runs)
        if metrics.public:
            output(figures_table(metrics.public, f"{len(self.runs)} fused runs, on the public samples"))
        for line in expectation_lines(metrics):
            output(line)
