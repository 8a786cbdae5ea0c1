"""The command that looks for the target's recipe."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxmia.runs.rundir import RunDir

logger = logging.getLogger(__name__)


@dataclass
class Match:
    """Tries training recipes and ranks them by how much their shadows look like the target.

    Trains a few models by each recipe of the section `match`, compares their logit margins with the target's on the
    public samples, and writes DIR/match.json, DIR/match.png and the best as DIR/matched.yaml, ready to run.

    Example: jaxmia match --config own.yaml --out runs/match --match.epochs 10 20 40 --match.trials 12
    """

    out: Path
    """Folder of the results."""
    config: Path | None = None
    """Configuration (YAML), where not every field that is needed is given by --section.field VALUE."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Tries."""
        from jaxmia.cli.display import match_table, output, progress_bar
        from jaxmia.cli.overrides import configure
        from jaxmia.matching import match
        from jaxmia.pipeline.stages import Pipeline
        from jaxmia.training.devices import prepare_devices

        config = configure(self.config, overrides)
        prepare_devices()
        output(match_table(match(Pipeline(config, self.out, progress_bar))))
        logger.info(f"match: the best recipe is in {RunDir(self.out).matched}; `jaxmia run --config` takes it")
