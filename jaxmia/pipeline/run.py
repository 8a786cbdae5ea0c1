"""Runs the whole pipeline from the challenge's files to a submission and a report."""

from dataclasses import replace
from pathlib import Path

from jaxmia.config import Config, load_config
from jaxmia.errors import InputError
from jaxmia.evaluation.selection import check_count
from jaxmia.pipeline.models import open_pipeline, prepare_run_dir, train_and_query
from jaxmia.pipeline.rounds import train_in_rounds, train_rounds
from jaxmia.pipeline.scoring import score
from jaxmia.pipeline.shard import Shard, meet
from jaxmia.pipeline.stages import ProgressBar, no_progress_bar
from jaxmia.runs.metrics import RunMetrics
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.store import ScoreStore


def run(
    config: Config, out: Path, *, progress_bar: ProgressBar = no_progress_bar, truth: Path | None = None
) -> RunMetrics:
    """Runs all stages as `jaxmia run` does; stages whose results exist already are skipped.

    Args:
        config: Configuration of the challenge, the shadow models and the attack.
        out: Run directory; created if it does not exist.
        progress_bar: Shows progress.
        truth: CSV `id,membership` of the private samples, if known; the report then shows figures on them.

    Returns:
        Contents of `metrics.json`.

    Raises:
        InputError: A file or a field is invalid, or the run directory does not match the configuration.
        Interrupted: A signal was received; the progress so far is saved, and the same call resumes from there.
    """
    pipeline = open_pipeline(config, out, progress_bar)
    check_count(config.attack, len(ScoreStore(RunDir(out).shadows).models() | set(range(config.shadow.count))))
    (train_and_query if config.shadow.rounds == 1 else train_in_rounds)(pipeline)
    metrics = score(out, config.attack)
    from jaxmia.report import write_report  # imports Matplotlib, which training does without

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
    """Trains and queries the shadow models that are missing.

    With two rounds, it trains those of the first round, or those of the second if the first is complete when its own
    models are trained; the target is queried, too.

    Args:
        config: Configuration of the challenge and the shadow models.
        out: Run directory, which several jobs may share.
        shard: Shard of the models to train; by default all models.
        coordinator: Address at which the processes of one job meet (`jaxmia.pipeline.shard.meet`); by default they do
            not meet.
        progress_bar: Shows progress.

    Raises:
        InputError: As in `run`, or existing models were queried in other views.
        Interrupted: As in `run`.
    """
    pipeline = open_pipeline(config, out, progress_bar)
    if coordinator is not None:
        shard = meet(coordinator, shard or Shard())
    if config.shadow.rounds > 1:
        train_rounds(pipeline, shard or Shard())
        return
    _, waiting = prepare_run_dir(pipeline, out)
    if waiting:
        raise InputError(
            f"{waiting[0].path}: was queried in other views; `jaxmia query` with the same options queries its models "
            "again"
        )
    with pipeline.prepared():
        pipeline.train(shard)


def query(
    config: Config, out: Path, *, shadows: Path | None = None, progress_bar: ProgressBar = no_progress_bar
) -> None:
    """Queries the target, and queries again the shadow models that were queried in other views.

    Args:
        config: Configuration of the challenge, the shadow models and the views.
        out: Run directory.
        shadows: Directory of another run whose shadow models are queried; it is left unchanged.
        progress_bar: Shows progress.

    Raises:
        InputError: As in `run`, or the weights of shadow models to be queried again were not kept.
        Interrupted: As in `run`.
    """
    if config.shadow.rounds > 1:
        raise InputError(
            f"shadow.rounds: {config.shadow.rounds} needs the target's scores between the rounds; use `jaxmia run` or "
            "`jaxmia train`, which also query the target"
        )
    pipeline = open_pipeline(config, out, progress_bar)
    if shadows and config.challenge.scaling == "pool":
        pipeline = replace(pipeline, scaled_as=load_config(RunDir(shadows).config).challenge)
    requery, waiting = prepare_run_dir(pipeline, shadows or out)
    with pipeline.prepared():
        pipeline.query()
        requery.run(waiting)
