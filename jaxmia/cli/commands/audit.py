"""The command that audits a model with every membership known."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

logger = logging.getLogger(__name__)


@dataclass
class Audit:
    """Scores every sample with the memberships of all others known, for those who trained the model.

    Divides the samples into folds and trains shadow.count models for each, with the known memberships outside the
    fold. Prints the cost before it starts; the same command resumes an interrupted audit.

    Example: jaxmia audit --config own.yaml --out runs/audit --truth truth.csv --folds 4
    """

    out: Path
    """Folder for the results."""
    config: Path | None = None
    """Configuration file (YAML); optional if --section.field VALUE sets every field that is needed."""
    truth: Path | None = None
    """CSV of id,membership for the samples whose membership is not in the challenge's files."""
    folds: int = 4
    """Number of folds; more folds leave fewer memberships unknown and need proportionally more shadows."""
    compare: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also attack without known memberships, with as many shadows as one fold has, and report the difference."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the cost and stop."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the contents of metrics.json instead of tables."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Runs the audit."""
        from jaxmia.cli.commands.run import show_metrics
        from jaxmia.cli.display import output, progress_bar
        from jaxmia.cli.overrides import configure_run

        config = configure_run(self.config, overrides, required=("public", "target"))
        from jaxmia.pipeline import audit

        planned = audit.Audit(config, self.out, self.folds, self.truth, self.compare, progress_bar)
        if self.dry_run:
            output(f"audit: {planned.cost()}")
            return
        logger.info(f"audit: {planned.cost()}")
        show_metrics(planned.run(), self.json)
