"""The stages of `jaxmia run`; each is skipped if its output exists and its inputs are unchanged."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmia.config import ChallengeConfig, Config, save_config
from jaxmia.data.kinds import kind_of
from jaxmia.data.pool import Pool
from jaxmia.data.sources import named_file
from jaxmia.data.views import View
from jaxmia.errors import InputError, UnreadableFile
from jaxmia.evaluation.accuracy import CHECK_PREPROCESSING, by_membership, chance_accuracy, near_chance
from jaxmia.evaluation.selection import configured_attacks
from jaxmia.files import load_npz, save_npz
from jaxmia.pipeline.shard import Shard
from jaxmia.provenance import file_digest, origin
from jaxmia.runs.claims import Claims
from jaxmia.runs.log import EventLog
from jaxmia.runs.presence import presence
from jaxmia.runs.progress import ThroughputMeter
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.signals import Interrupted, stop_requests
from jaxmia.runs.status import ranges
from jaxmia.runs.store import ALL_DIVERGED, ScoreStore, describe_difference, metadata_of

if TYPE_CHECKING:
    from bridge.target import Target
    from jaxmia.runs.progress import Progress
    from jaxmia.training.checkpoint import Checkpoints
    from jaxmia.training.setup import ShadowSetup

logger = logging.getLogger(__name__)

ProgressBar = Callable[[str], AbstractContextManager[Callable[["Progress"], None]]]
"""Function from a title to a context manager, whose value is called with the progress."""


def no_progress_bar(title: str) -> AbstractContextManager[Callable[["Progress"], None]]:
    """A progress bar that shows nothing."""
    del title
    return nullcontext(lambda progress: None)


@dataclass(frozen=True)
class Pipeline:
    """The stages of a run, given its configuration and directory.

    Attributes:
        config: Configuration of the run.
        out: Run directory.
        progress_bar: Shows progress.
        scaled_as: Challenge whose samples scale the features (`challenge.scaling: pool`); by default that of the run.
    """

    config: Config
    out: Path
    progress_bar: ProgressBar = field(default=no_progress_bar)
    scaled_as: ChallengeConfig | None = field(default=None, kw_only=True)
    _pool: Pool | None = field(default=None, kw_only=True, repr=False)
    _target: "Target | None" = field(default=None, kw_only=True, repr=False)
    _setup: "ShadowSetup | None" = field(default=None, kw_only=True, repr=False)

    def attacking(self, pool: Pool, config: Config, out: Path, progress_bar: ProgressBar) -> "Pipeline":
        """Creates the stages of another run against the same target, on the given pool instead of the challenge's."""
        return Pipeline(config, out, progress_bar, _pool=pool, _target=self.target)

    def with_setup(self, setup: "ShadowSetup") -> "Pipeline":
        """Creates the same stages with another setup of the shadow models."""
        return replace(self, _pool=self.pool, _target=self.target, _setup=setup)

    @cached_property
    def pool(self) -> Pool:
        """Public and private samples of the challenge."""
        if self._pool is not None:
            return self._pool
        from bridge.open import open_pool

        pool = open_pool(self.config.challenge, self.target.classes, scaled_as=self.scaled_as)
        public, members = int(pool.public.sum()), int((pool.membership == 1).sum())
        logger.info(f"pool: {public} public samples ({members} members), {len(pool) - public} private")
        return pool

    @cached_property
    def target(self) -> "Target":
        """The model under attack."""
        if self._target is not None:
            return self._target
        from bridge.open import open_target

        return open_target(self.config.challenge)

    @cached_property
    def views(self) -> tuple[View, ...]:
        """Views in which each image is queried."""
        section, samples = self.config.query, self.pool.images_to("query")
        return kind_of(samples).query_views(section.views, section.shift, self.config.shadow.augment, samples.shape[1:])

    @cached_property
    def setup(self) -> "ShadowSetup":
        """Setup of the shadow models of this run."""
        if self._setup is not None:
            return self._setup
        from bridge.shadows import shadow_network
        from jaxmia.training.setup import shadow_setup

        classes = self.target.classes or self.target.count_classes(self.pool)
        return shadow_setup(
            self.pool,
            self.config.shadow,
            self.target.preprocessing,
            classes,
            views=self.views,
            seed=self.config.seed,
            query_batch=self.config.query.batch_size,
            network=shadow_network(self.config.shadow, self.target, self.pool.images_to("train on"), classes),
        )

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Writes the resolved configuration and the samples to the run directory, for stages that run in the block.

        Raises:
            InputError: A configured attack is unknown, a checkpoint was made with another configuration, or another
                process trains with one; nothing is written then.
        """
        configured_attacks(self.config.attack)
        if RunDir(self.out).checkpoints.exists():
            self._checkpoints().resumable(())
        with presence(RunDir(self.out).claims, self.setup.cache_key()):
            self.pool.save(RunDir(self.out).pool)
            save_config(self.config, RunDir(self.out).config)
            yield

    def missing_models(self, shard: Shard | None = None) -> list[int]:
        """Numbers of the shadow models that are still to be trained.

        Raises:
            InputError: The run directory contains models of another configuration.
        """
        present = _present(ScoreStore(RunDir(self.out).shadows), self.setup.cache_key())
        wanted = (shard or Shard()).models(self.config.shadow.count)
        return [model for model in wanted if model not in present]

    def train(self, shard: Shard | None = None) -> None:
        """Trains and queries the shadow models that are missing."""
        store, claims = ScoreStore(RunDir(self.out).shadows), Claims(RunDir(self.out).claims)
        cache_key = self.setup.cache_key()
        wanted = (shard or Shard()).models(self.config.shadow.count)
        missing = self.missing_models(shard)
        if not missing:
            logger.info(f"shadows: all {len(wanted)} exist already")
            if more := sorted(store.models() - set(range(self.config.shadow.count))):
                logger.warning(
                    f"shadows: models {ranges(more)} are beyond shadow.count: {self.config.shadow.count}, but exist in "
                    f"{store.folder} and are scored with the others"
                )
            self._tidy(store, claims)
            _refuse_divergence(store)
            return
        from jaxmia.pipeline.worker import Job
        from jaxmia.training.weights import Weights

        section = self.config.ensemble
        # Planned for all wanted models, so that a resumed run keeps its plan.
        plan = self.setup.plan(section, len(wanted))
        logger.info(f"shadows: training {len(missing)} of {len(wanted)} models ({plan})")
        log = EventLog(RunDir(self.out).log)
        with stop_requests() as stop_signal, self.progress_bar("shadows") as on_progress:
            shadows = self.setup.shadow_trainer(plan)
            shadows = replace(
                shadows,
                metadata={"cache_key": cache_key, **plan.provenance()},
                on_progress=_reporter(claims, log, on_progress),
                stop_signal=stop_signal,
                keep=Weights(RunDir(self.out).weights).write if section.keep_weights else shadows.keep,
            )
            log.write("begin", {"missing": len(missing), "cache_key": cache_key, **plan.provenance()})
            try:
                Job(shadows, store, self._checkpoints(), claims).run(missing, plan.width)
            except Interrupted as stop:
                log.write("stop", {"what": str(stop)})
                raise
            log.write("end", {"models": len(store.models()), "diverged": sorted(store.diverged())})
        self._tidy(store, claims)
        _refuse_divergence(store)

    def _tidy(self, store: ScoreStore, claims: Claims) -> None:
        """Removes checkpoints that are not needed any more."""
        if RunDir(self.out).checkpoints.exists():
            self._checkpoints().forget(store.models() | store.diverged())
            self._checkpoints().remove_abandoned([claim.models for claim in claims.others()])

    def _checkpoints(self) -> "Checkpoints":
        from jaxmia.training.checkpoint import Checkpoints

        every = self.config.ensemble.checkpoint_seconds
        return Checkpoints(RunDir(self.out).checkpoints, self.setup.cache_key(), every)

    def query(self) -> None:
        """Queries the target on every sample in every view; views that an interrupted call finished are kept."""
        path = RunDir(self.out).target
        cache_key = {
            "target": file_digest(named_file(self.config.challenge, "target")),
            "challenge": self.config.challenge.model_dump(
                mode="json", include={"architecture", "backend", "image_size", "mean", "std"}
            ),
            "views": [str(view) for view in self.views],
            "pool": self.setup.pool_digest,
        }
        if path.exists() and metadata_of(path, load_npz(path)).get("cache_key") == cache_key:
            logger.info("target: margins exist already")
            return
        phi, correct = self._query_views(cache_key)
        network = {"network": self.target.network.architecture} if self.target.network else {}
        metadata = json.dumps({"cache_key": cache_key, **network, **origin()})
        save_npz(path, {"phi": phi, "correct": correct, "metadata": np.array(metadata)})
        RunDir(self.out).partial_target.unlink(missing_ok=True)
        groups = by_membership(correct, self.pool.membership)
        shares = [f"{group.mean():.4f} on {name}" for name, group in groups.items()]
        logger.info("target: accuracy " + ", ".join(shares or [f"{correct.mean():.4f}"]))
        if near_chance(correct, self.pool.labels):
            logger.warning(
                f"target: accuracy {correct.mean():.4f}, and always predicting the most common class has "
                f"{chance_accuracy(self.pool.labels):.4f}; {CHECK_PREPROCESSING}"
            )

    def _query_views(self, cache_key: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """The target's margins `[view, sample]`, and whether its predictions in the first view are correct."""
        from jaxmia.runs.progress import Progress
        from jaxmia.training.query import query_target

        setup, partial = self.setup, RunDir(self.out).partial_target
        images = setup.preprocessing.resized(self.pool.images_to("query"))
        phi, correct = _finished_views(partial, cache_key)
        if phi:
            logger.info(f"target: {len(phi)} of {len(setup.views)} views were queried already")
        done, total = len(phi) * len(images), len(setup.views) * len(images)
        with self.progress_bar("target") as on_progress:

            def on_images(count: int) -> None:
                nonlocal done
                done += count
                on_progress(Progress("querying", (), done, total, 0, 0))

            for view in setup.views[len(phi) :]:
                margins, hits = query_target(
                    self.target.query, images, setup.labels, [view], setup.query_batch, on_images
                )
                phi.append(margins[0])
                correct.append(hits)
                metadata = np.array(json.dumps({"cache_key": cache_key}))
                save_npz(partial, {"phi": np.stack(phi), "correct": np.stack(correct), "metadata": metadata})
        return np.stack(phi), correct[0]


def _finished_views(path: Path, cache_key: Mapping[str, Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Margins and correctness of the views that an interrupted query with this configuration finished."""
    try:
        stored = load_npz(path, required=("phi", "correct"))
        if metadata_of(path, stored).get("cache_key") == cache_key:
            return list(stored["phi"]), list(stored["correct"])
    except UnreadableFile:
        pass
    return [], []


def _present(store: ScoreStore, cache_key: Mapping[str, Any]) -> set[int]:
    """Numbers of the models that are stored and were trained with this configuration."""
    present: set[int] = set()
    for path, chunk in store.chunks():
        difference = describe_difference(chunk.metadata, {"cache_key": cache_key})
        if difference:
            raise InputError(
                f"{path}: was created with another configuration: {difference}; use another --out or remove the folder "
                f"{store.folder}"
            )
        present.update(chunk.model.tolist(), chunk.diverged)
    return present


def _refuse_divergence(store: ScoreStore) -> None:
    if store.diverged() and not store.models():
        raise InputError(f"{store.folder}: {ALL_DIVERGED}")


def _reporter(claims: Claims, log: EventLog, on_progress: Callable[["Progress"], None]) -> Callable[["Progress"], None]:
    """Reports progress to the progress bar, to the event log once an epoch, and to other processes by their claims."""
    meter = ThroughputMeter()

    def report(progress: "Progress") -> None:
        figures = meter(progress)
        claims.progress = figures
        if progress.stage == "training":
            log.write("epoch", {"models": list(progress.models), **figures})
        elif progress.done == progress.total:
            log.write("queried", {"models": list(progress.models), **figures})
        on_progress(progress)

    return report
