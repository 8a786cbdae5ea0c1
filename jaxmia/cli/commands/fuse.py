"""The command that fuses runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxmia.cli.overrides import refuse_overrides


@dataclass
class Fuse:
    """Fuses scored runs of several recipes against the same target to one submission.

    Each run keeps its own statistics and its own choice of attack; their ranks are averaged with equal weights.

    Example: jaxmia fuse runs/long runs/smoothed --out runs/fused
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories that `jaxmia run` or `jaxmia score` has filled."""
    out: Path
    """Folder of the results."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Fuses."""
        refuse_overrides(overrides)
        from jaxmia.cli.display import figures_table, output, promise_lines
        from jaxmia.pipeline.fuse import fuse

        metrics = fuse(self.out, self.runs)
        if metrics.public:
            output(figures_table(metrics.public, f"{len(self.runs)} families fused, on the public samples"))
        for line in promise_lines(metrics):
            output(line)
