"""The command that audits a model with every membership known."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

logger = logging.getLogger(__name__)


@dataclass
class Audit:
    """Scores every sample with the memberships of all others known: the strongest attack, for who trained the model.

    Divides the samples into folds and trains shadow.count models for each, which take the memberships outside of the
    fold as told. Says what that costs before it starts; the same command goes on after an interruption.

    Example: jaxmia audit --config own.yaml --out runs/audit --truth truth.csv --folds 4
    """

    out: Path
    """Folder of the results."""
    config: Path | None = None
    """Configuration (YAML), where not every field that is needed is given by --section.field VALUE."""
    truth: Path | None = None
    """CSV of id,membership, for samples of which the challenge's files do not tell it."""
    folds: int = 4
    """Number of folds: with more, the shadows know more, and there are as many times more of them."""
    compare: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also attack without knowing a membership, by as many shadows as a fold has, and say how much that finds less."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Say what it costs, and stop."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print what metrics.json holds instead of tables."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Audits."""
        from jaxmia.cli.commands.run import show_metrics
        from jaxmia.cli.display import output, progress_bar
        from jaxmia.cli.overrides import configure
        from jaxmia.pipeline import audit

        config = configure(self.config, overrides)
        planned = audit.Audit(config, self.out, self.folds, self.truth, self.compare, progress_bar)
        if self.dry_run:
            output(f"audit: {planned.cost()}")
            return
        logger.info(f"audit: {planned.cost()}")
        show_metrics(planned.run(), self.json)
