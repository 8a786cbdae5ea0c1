"""Everything from the three files to a submission and a report, in the order of its stages."""

from pathlib import Path

from jaxmia.config import Config
from jaxmia.errors import InputError
from jaxmia.pipeline.requery import Requery
from jaxmia.pipeline.scoring import score
from jaxmia.pipeline.shard import Shard, meet
from jaxmia.pipeline.stages import Pipeline, ProgressBar, no_progress_bar
from jaxmia.report import write_report
from jaxmia.runs.cleanup import clear_leftovers
from jaxmia.runs.metrics import RunMetrics
from jaxmia.runs.store import Entry


def run(
    config: Config, out: Path, *, progress_bar: ProgressBar = no_progress_bar, truth: Path | None = None
) -> RunMetrics:
    """Does what `jaxmia run` does; stages whose results are there are not repeated.

    Args:
        config: The challenge, the recipe of the shadows, and the attack.
        out: The run directory; made where it is not there.
        progress_bar: Shows progress.
        truth: CSV of `id,membership` of private samples, where it is known: the report shows the figures on them.

    Returns:
        What `metrics.json` holds.

    Raises:
        InputError: A file or a field cannot be used, or what is in the directory does not fit the configuration.
        Interrupted: A signal came; what was done is saved, and the same call goes on from there.
    """
    pipeline = _pipeline(config, out, progress_bar)
    requery, waiting = prepare_run_dir(pipeline, out)
    pipeline.begin()
    pipeline.query()
    requery.run(waiting)
    pipeline.train()
    metrics = score(out, config.attack)
    write_report(out, truth=truth, images=pipeline.pool.images)
    return metrics


def train(
    config: Config,
    out: Path,
    *,
    shard: Shard | None = None,
    coordinator: str | None = None,
    progress_bar: ProgressBar = no_progress_bar,
) -> None:
    """Trains and queries the shadow models that are not there yet.

    Args:
        config: The challenge and the recipe of the shadows.
        out: The run directory; jobs may share it.
        shard: Which of the models; by default all.
        coordinator: Where the processes of one job meet (`jaxmia.pipeline.shard.meet`); by default they do not.
        progress_bar: Shows progress.

    Raises:
        InputError: As `run`; or models that are there were queried in other views.
        Interrupted: As `run`.
    """
    pipeline = _pipeline(config, out, progress_bar)
    if coordinator is not None:
        shard = meet(coordinator, shard or Shard())
    _, waiting = prepare_run_dir(pipeline, out)
    if waiting:
        raise InputError(
            f"{waiting[0].path}: was queried in other views; `jaxmia query` with the same options queries its models "
            "again"
        )
    pipeline.begin()
    pipeline.train(shard)


def query(
    config: Config, out: Path, *, shadows: Path | None = None, progress_bar: ProgressBar = no_progress_bar
) -> None:
    """Queries the target, and again the shadows whose scores were made in other views.

    Args:
        config: The challenge, the recipe of the shadows, and the views.
        out: The run directory.
        shadows: Directory of another run, whose shadows are queried; it stays as it is.
        progress_bar: Shows progress.

    Raises:
        InputError: As `run`; or shadows are to be queried again whose weights were not kept.
        Interrupted: As `run`.
    """
    pipeline = _pipeline(config, out, progress_bar)
    requery, waiting = prepare_run_dir(pipeline, shadows or out)
    pipeline.begin()
    pipeline.query()
    requery.run(waiting)


def prepare_run_dir(pipeline: Pipeline, source: Path) -> tuple[Requery, list[Entry]]:
    """Looks at what is there before anything is written, and removes what killed processes have half written.

    Args:
        pipeline: The run.
        source: Directory of the run whose shadows are queried; usually the same.

    Returns:
        What queries trained models again, and the chunks that are waiting for it.

    Raises:
        InputError: What is there does not fit the configuration.
    """
    requery = Requery(pipeline, source)
    waiting = requery.waiting()
    clear_leftovers(pipeline.out)
    return requery, waiting


def _pipeline(config: Config, out: Path, progress_bar: ProgressBar) -> Pipeline:
    from jaxmia.training.devices import prepare_devices

    prepare_devices()
    return Pipeline(config, out, progress_bar)
