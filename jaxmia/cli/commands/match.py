"""The command that searches for the target's recipe."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxmia.runs.rundir import RunDir

logger = logging.getLogger(__name__)


@dataclass
class Match:
    """Searches for the training recipe whose shadow models resemble the target most.

    Trains a few models by each recipe of the section `match`, compares their logit margins with the target's on the
    public samples, and writes DIR/match.json, DIR/match.png and the best recipe as DIR/matched.yaml, ready to run.

    Example: jaxmia match --config own.yaml --out runs/match --match.epochs 10 20 40 --match.trials 12
    """

    out: Path
    """Folder for the results."""
    config: Path | None = None
    """Configuration file (YAML); optional if --section.field VALUE sets every field that is needed."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Runs the search."""
        from jaxmia.cli.display import match_table, output, progress_bar
        from jaxmia.cli.overrides import configure_run

        config = configure_run(self.config, overrides)
        from jaxmia.matching import match
        from jaxmia.pipeline.models import open_pipeline

        output(match_table(match(open_pipeline(config, self.out, progress_bar))))
        logger.info(f"match: the best recipe is in {RunDir(self.out).matched}; pass it to `jaxmia run --config`")
