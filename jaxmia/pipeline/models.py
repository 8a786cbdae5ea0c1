"""Trains and queries the models of a run directory, and joins the models of several into one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxmia.config import Config, save_config
from jaxmia.errors import InputError
from jaxmia.files import load_npz, save_npz
from jaxmia.pipeline.requery import Requery
from jaxmia.pipeline.shard import Shard
from jaxmia.pipeline.stages import Pipeline, ProgressBar, no_progress_bar
from jaxmia.provenance import origin
from jaxmia.runs.cleanup import clear_leftovers
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.store import Chunk, Entry, ScoreStore


def open_pipeline(config: Config, out: Path, progress_bar: ProgressBar = no_progress_bar) -> Pipeline:
    """Creates the stages of a run, on all devices.

    Raises:
        InputError: The run directory is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, expected the folder of the results")
    from jaxmia.training.devices import prepare_devices

    prepare_devices()
    return Pipeline(config, out, progress_bar)


def train_and_query(pipeline: Pipeline, shard: Shard | None = None) -> None:
    """Queries the target and makes sure that all shadow models, or those of a shard, are trained and queried.

    Raises:
        InputError: A file or a field is invalid, or the run directory does not match the configuration.
        Interrupted: A signal was received; the progress so far is saved, and the same call resumes from there.
    """
    requery, waiting = prepare_run_dir(pipeline, pipeline.out)
    with pipeline.prepared():
        pipeline.query()
        requery.run(waiting)
        pipeline.train(shard)


def prepare_run_dir(pipeline: Pipeline, source: Path) -> tuple[Requery, list[Entry]]:
    """Checks a run directory before anything is written, and removes partial files of killed processes.

    Args:
        pipeline: Pipeline of the run.
        source: Directory of the run whose shadow models are queried; usually the same.

    Returns:
        The query of trained models, and the chunks that need it.

    Raises:
        InputError: The directory does not match the configuration.
    """
    requery = Requery(pipeline, source)
    waiting = requery.waiting()
    clear_leftovers(pipeline.out)
    return requery, waiting


def refuse_other_run(out: Path, mark: str, kind: str) -> None:
    """Checks that a directory's models, if there are any, were joined by a run of the same kind.

    Args:
        out: Run directory.
        mark: Entry of the cache key by which such a run is recognised.
        kind: Name of this kind of run with its article, for the message.

    Raises:
        InputError: They belong to another run, and would be lost.
    """
    for entry in ScoreStore(RunDir(out).shadows).index():
        if mark not in entry.metadata.get("cache_key", {}):
            raise InputError(f"{entry.path}: belongs to a run that is not {kind}; use another folder")


def write_joined(pipeline: Pipeline, source: Path, chunk: Chunk, cache_key: dict[str, Any]) -> None:
    """Writes models that were joined from several run directories, and the other files of a run directory.

    Args:
        pipeline: Pipeline of the whole run; its pool and configuration are written.
        source: One of the run directories, all of which have the same target.
        chunk: The joined models, which replace any that are there.
        cache_key: Everything that the models' margins depend on.
    """
    run = RunDir(pipeline.out)
    pipeline.pool.save(run.pool)
    save_config(pipeline.config, run.config)
    save_npz(run.target, load_npz(RunDir(source).target))
    ScoreStore(run.shadows).replace(replace(chunk, metadata={"cache_key": cache_key, **origin()}))
