"""Commands that produce results: demo, run, train, query, score."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from jaxmia.errors import InputError
from jaxmia.plugins import is_plugin
from jaxmia.runs.rundir import RunDir

if TYPE_CHECKING:
    from jaxmia.config import Config
    from jaxmia.runs.metrics import RunMetrics

logger = logging.getLogger(__name__)


@dataclass
class Demo:
    """Builds a small challenge from real data, trains a target on its members, and attacks it.

    Example: jaxmia demo --out runs/demo
    """

    out: Path = Path("runs/demo")
    """Folder for the challenge and the results."""
    kind: Literal["images", "table"] = "images"
    """Images of digits, or a table of measurements in CSV files."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Runs the demonstration."""
        from bridge.demo import make_demo
        from jaxmia.cli.overrides import configure_content

        data = "digits" if self.kind == "images" else "breast cancer table"
        logger.info(
            f"demo: building a challenge from scikit-learn's {data} and training a PyTorch target on its members"
        )
        truth = self.out / "truth.csv"
        _run(configure_content(make_demo(self.out, self.kind), "demo", overrides), self.out, truth)
        from jaxmia.cli.commands.evaluate import Evaluate

        Evaluate(self.out, truth)([])


@dataclass
class Run:
    """Goes from the challenge's three files to DIR/submission.csv and DIR/report.html; skips finished stages.

    Example: jaxmia run --config own.yaml --out runs/own  (jaxmia init own.yaml writes it)
    """

    out: Path
    """Folder for the results."""
    config: Path | None = None
    """Configuration file (YAML); optional if --section.field VALUE sets every field that is needed."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the contents of metrics.json instead of tables."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Runs all stages."""
        from jaxmia.cli.overrides import configure_run

        _run(configure_run(self.config, overrides), self.out, as_json=self.json)


@dataclass
class Train:
    """Trains and queries the missing shadow models.

    Example: jaxmia train --config own.yaml --out runs/own --shard 0/4
    """

    out: Path
    """Folder for the results; several jobs may share it."""
    config: Path | None = None
    """Configuration file (YAML); optional if --section.field VALUE sets every field that is needed."""
    shard: str = "0/1"
    """I/N: train the I-th of N equal shares of the models, counted from 0 or from 1 (N/N is the same as 0/N)."""
    coordinator: str | None = None
    """For one job on many hosts: HOST:PORT of shard 0, or auto to take host and shard from Slurm or MPI."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Trains the models."""
        from jaxmia.cli.display import progress_bar
        from jaxmia.cli.overrides import configure_run
        from jaxmia.pipeline.shard import Shard

        shard = Shard.parse(self.shard)
        config = configure_run(self.config, overrides)
        from jaxmia.pipeline.run import train

        train(config, self.out, shard=shard, coordinator=self.coordinator, progress_bar=progress_bar)


@dataclass
class Query:
    """Queries the target on every sample and view, and repeats queries of shadows whose views or samples have changed.

    Shadows can be queried again, in other views or on other samples, if their weights were kept
    (--ensemble.keep_weights true). No model is trained.

    Example: jaxmia query --config own.yaml --out runs/own
    """

    out: Path
    """Folder for the results."""
    config: Path | None = None
    """Configuration file (YAML); optional if --section.field VALUE sets every field that is needed."""
    shadows: Path | None = None
    """Folder of another run whose shadows are queried; that run stays unchanged."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Queries the models."""
        from jaxmia.cli.display import progress_bar
        from jaxmia.cli.overrides import configure_run

        config = configure_run(self.config, overrides)
        from jaxmia.pipeline.run import query

        query(config, self.out, shadows=self.shadows, progress_bar=progress_bar)


@dataclass
class Score:
    """Scores every sample and writes scores.npz, metrics.json and submission.csv.

    Needs only pool.npz, target.npz and shadows/*.npz in DIR, from any source; no images and no models.

    Prints which models are missing, and whether the others are enough.

    Example: jaxmia score --out runs/mini --attack.name lira-online-global
    """

    out: Path
    """Folder for the results."""
    config: Path | None = None
    """Configuration file (YAML); by default that of the run, if it has one."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the contents of metrics.json instead of tables."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Scores the samples."""
        from jaxmia.cli.overrides import configure
        from jaxmia.pipeline.scoring import score

        own = RunDir(self.out).config
        config = configure(self.config or (own if own.exists() else None), overrides)
        if self.config is None:
            _refuse_unnamed_code(own, config, overrides)
        show_metrics(score(self.out, config.attack), self.json)


def _refuse_unnamed_code(path: Path, config: "Config", overrides: Sequence[str]) -> None:
    """Refuses attacks that only the run directory names: it may come from anyone, and its files must not run code."""
    named = [value.rpartition("=")[2] for value in overrides]
    for name in (config.attack.name, *config.attack.candidates):
        if is_plugin(name) and name not in named:
            raise InputError(
                f"{path}: attack: {name!r} is code, which runs only if you name it with --config {path}, "
                "--attack.name or --attack.candidates"
            )


def _run(config: "Config", out: Path, truth: Path | None = None, as_json: bool = False) -> None:
    from jaxmia.cli.display import progress_bar
    from jaxmia.pipeline.run import run

    show_metrics(run(config, out, progress_bar=progress_bar, truth=truth), as_json)


def show_metrics(metrics: "RunMetrics", as_json: bool) -> None:
    """Prints the contents of `metrics.json` as tables or as JSON."""
    from jaxmia.cli.display import expectation_lines, figures_table, output, selection_table, vulnerable_table

    if as_json:
        output(metrics.to_json())
        return
    if metrics.selection:
        output(selection_table(metrics.selection))
    if metrics.public:
        output(figures_table(metrics.public, f"{metrics.attack} on the public samples"))
    if metrics.guessing:
        output(f"vulnerable samples: none are listed, since {metrics.guessing}")
    elif metrics.vulnerable:
        output(vulnerable_table(metrics))
    for line in expectation_lines(metrics):
        output(line)
