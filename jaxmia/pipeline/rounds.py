"""Shadow models in two rounds: the scores of the first guide the training sets of the second."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxmia.config import Config
from jaxmia.errors import InputError
from jaxmia.evaluation.chances import membership_chances
from jaxmia.pipeline.models import refuse_other_run, train_and_query, write_joined
from jaxmia.pipeline.shard import Shard
from jaxmia.pipeline.stages import Pipeline
from jaxmia.runs.matrices import ROUND, read_matrices
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.status import ranges
from jaxmia.runs.store import Chunk, ScoreStore

logger = logging.getLogger(__name__)


def train_in_rounds(pipeline: Pipeline) -> None:
    """Trains half of `shadow.count` models, then the others by the first ones' scores, and joins both.

    A model of the second round is trained on each free sample with the probability of membership that the first round
    estimates (`membership_chances`), so that its training set has more in common with the target's. Apart from the
    fixed memberships, no membership of the target is used for this.

    Args:
        pipeline: Pipeline of the whole run; the rounds have run directories of their own below it.

    Raises:
        InputError: As in `train_and_query`; or the directory contains models of a run in one round, or another process
            is training models of the first round.
        Interrupted: As in `train_and_query`.
    """
    trained = train_rounds(pipeline, Shard())
    if trained is None:
        raise InputError(f"{RunDir(pipeline.out).rounds}: other processes are training models of the first round")
    first, second = trained
    chunks = [ScoreStore(RunDir(run.out).shadows).read() for run in (first, second)]
    write_joined(pipeline, first.out, join_rounds(chunks), {**first.setup.cache_key(), "rounds": 2})


def train_rounds(pipeline: Pipeline, shard: Shard) -> tuple[Pipeline, Pipeline] | None:
    """Trains a shard of the first round and, once all models of that round are trained, the same shard of the second.

    Args:
        pipeline: Pipeline of the whole run.
        shard: Shard of the models of each round.

    Returns:
        The pipelines of both rounds; None if models of the first round are still missing.

    Raises:
        InputError: As in `train_in_rounds`.
        Interrupted: As in `train_and_query`.
    """
    refuse_other_run(pipeline.out, "rounds", "a run in two rounds")
    count = pipeline.config.shadow.count
    half = -(-count // 2)
    first, second = _round(pipeline, 1, half), _round(pipeline, 2, count)
    train_and_query(first, shard)
    if missing := first.missing_models():
        logger.info(
            f"round 1 of 2: models {ranges(missing)} are missing; once they are trained, the same command trains the "
            "second round"
        )
        return None
    masks = replace(first.setup.masks, chance=_chances(first.out))
    second = second.with_setup(replace(first.setup, masks=masks))
    train_and_query(second, replace(shard, first=half))
    return first, second


def join_rounds(parts: list[Chunk]) -> Chunk:
    """Joins the models of both rounds, whose numbers differ."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return Chunk(
        model=joined("model"),
        mask=joined("mask"),
        phi=joined("phi"),
        accuracy=joined("accuracy"),
        accuracy_in=joined("accuracy_in"),
        extra={ROUND: np.repeat([1, 2], [len(part.model) for part in parts])},
        metadata={},
        diverged=tuple(number for part in parts for number in part.diverged),
        free=parts[0].free,
    )


def _chances(out: Path) -> np.ndarray:
    """Probability with which each sample is drawn to be IN, `[sample]`; 1/2 where the membership is fixed.

    They are rounded, so that shards on different machines draw from equal ones.
    """
    matrices = read_matrices(out)
    chances = np.round(matrices.for_everyone(membership_chances(matrices.evidence, matrices.fixed)), 6)
    return np.where(matrices.free, chances, 0.5)


def _round(pipeline: Pipeline, number: int, count: int) -> Pipeline:
    config: Config = pipeline.config
    shadow = config.shadow.model_copy(update={"rounds": 1, "count": count})
    return pipeline.attacking(
        pipeline.pool,
        config.model_copy(update={"shadow": shadow}),
        RunDir(pipeline.out).rounds / str(number),
        lambda what: pipeline.progress_bar(f"round {number} of 2: {what}"),
    )
