"""The stages of `jaxmia run`; each is skipped where its output is there and its inputs are unchanged."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmia.config import Config, save_config
from jaxmia.data.augment import View, views
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.evaluation.selection import configured_attacks
from jaxmia.files import load_npz, save_npz
from jaxmia.pipeline.shard import Shard
from jaxmia.provenance import digest, file_digest, origin
from jaxmia.runs.claims import Claims
from jaxmia.runs.log import EventLog
from jaxmia.runs.progress import ThroughputMeter
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.signals import Interrupted, stop_requests
from jaxmia.runs.store import ScoreStore, describe_difference

if TYPE_CHECKING:
    from bridge.target import Target
    from jaxmia.runs.progress import Progress
    from jaxmia.training.chunk import ShadowTrainer
    from jaxmia.training.plan import Plan
    from jaxmia.training.trainer import Trainer

logger = logging.getLogger(__name__)


ProgressBar = Callable[[str], AbstractContextManager[Callable[["Progress"], None]]]
"""Given a title, a context whose value is told of progress."""


def no_progress_bar(title: str) -> AbstractContextManager[Callable[["Progress"], None]]:
    """Shows nothing."""
    del title
    return nullcontext(lambda progress: None)


@dataclass(frozen=True)
class Pipeline:
    """A configuration and the folder of its results.

    Attributes:
        config: What to do.
        out: Where everything is written.
        progress_bar: Shows progress.
    """

    config: Config
    out: Path
    progress_bar: ProgressBar = field(default=no_progress_bar)

    @cached_property
    def pool(self) -> Pool:
        """The challenge's samples."""
        from bridge.challenge import load_challenge

        section = self.config.challenge
        pool = load_challenge(
            self._given("public"),
            self._given("private"),
            classes=section.dataset_classes,
            max_bytes=section.max_bytes,
            num_classes=self.target.classes,
        )
        public, members = int(pool.public.sum()), int((pool.membership == 1).sum())
        logger.info(f"pool: {public} public samples ({members} members), {len(pool) - public} private")
        return pool

    @cached_property
    def images(self) -> np.ndarray:
        """The pool at the size that models see: uint8, or float32 in [0, 1] where it was resized."""
        size = self.config.challenge.image_size
        images = self.pool.images
        if images is None:
            raise InputError("pool: holds no images")
        from jaxmia.data.resize import resize, resized_shape

        if size is None or images.shape[1:3] == resized_shape(images.shape[1], images.shape[2], size):
            return images
        return np.concatenate([np.asarray(resize(part, size)) for part in _parts(images, 1024)])

    @cached_property
    def target(self) -> "Target":
        """The model under attack."""
        from bridge.target import load_target

        section = self.config.challenge
        return load_target(
            self._given("target"),
            section.architecture,
            mean=section.mean,
            std=section.std,
            backend=section.backend,
            classes=section.classes,
        )

    @cached_property
    def views(self) -> tuple[View, ...]:
        """How each image is shown in queries."""
        return views(self.config.query.views, self.config.query.shift)

    def begin(self) -> None:
        """Writes the resolved configuration, and the samples beside the results.

        Raises:
            InputError: An attack that the configuration names is unknown; nothing is trained in vain.
        """
        configured_attacks(self.config.attack)
        self.pool.save(RunDir(self.out).pool)
        save_config(self.config, RunDir(self.out).config)

    def train(self, shard: Shard | None = None) -> None:
        """Trains and queries the shadow models that are not there yet."""
        store = ScoreStore(RunDir(self.out).shadows)
        cache_key = self.cache_key()
        present = _present(store, cache_key)
        wanted = (shard or Shard()).models(self.config.shadow.count)
        missing = [model for model in wanted if model not in present]
        if not missing:
            logger.info(f"shadows: all {len(wanted)} are there")
            return
        from jaxmia.pipeline.worker import Job
        from jaxmia.training.autotune import make_plan
        from jaxmia.training.checkpoint import Checkpoints
        from jaxmia.training.weights import Weights

        section = self.config.ensemble
        # For all that are wanted, so that a run that goes on has the plan that it began with.
        plan = make_plan(section, self.trainer(), len(wanted), len(self.pool))
        logger.info(f"shadows: training {len(missing)} of {len(wanted)} ({plan})")
        claims, log = Claims(RunDir(self.out).claims), EventLog(RunDir(self.out).log)
        checkpoints = Checkpoints(RunDir(self.out).checkpoints, cache_key, section.checkpoint_seconds)
        with stop_requests() as stop_signal, self.progress_bar("shadows") as on_progress:
            shadows = self.shadows(plan)
            shadows = replace(
                shadows,
                metadata={"cache_key": cache_key, "plan": str(plan), **origin()},
                on_progress=_reporter(claims, log, on_progress),
                stop_signal=stop_signal,
                keep=Weights(RunDir(self.out).weights).write if section.keep_weights else shadows.keep,
            )
            log.write("begin", {"missing": len(missing), "plan": str(plan), "cache_key": cache_key, **origin()})
            try:
                Job(shadows, store, checkpoints, claims).run(missing, plan.width)
            except Interrupted as stop:
                log.write("stop", {"what": str(stop)})
                raise
            log.write("end", {"models": len(store.models())})

    def shadows(self, plan: "Plan") -> "ShadowTrainer":
        """What trains and asks shadow models by this plan, on this pool."""
        from jaxmia.training.chunk import ShadowTrainer
        from jaxmia.training.ensemble import Ensemble

        ensemble = Ensemble(
            plan.applied(self.trainer()),
            self.config.seed,
            self.images,
            self.pool.labels,
            sequential=plan.sequential,
            devices=plan.devices,
        )
        return ShadowTrainer(ensemble, self.config.seed, self.views, self.config.query.batch_size)

    def trainer(self) -> "Trainer":
        """How one shadow trains on this pool."""
        from jaxmia.training.trainer import make_trainer

        challenge, (height, width, channels) = self.config.challenge, self.images.shape[1:]
        return make_trainer(
            self.config.shadow,
            (height, width, channels),
            self._classes(),
            mean=challenge.mean,
            std=challenge.std,
            symmetries=self.config.query.views,
        )

    def query(self) -> None:
        """Queries the target on every sample and view."""
        path = RunDir(self.out).target
        cache_key = {
            "target": file_digest(self._given("target")),
            "challenge": self.config.challenge.model_dump(
                mode="json", include={"architecture", "backend", "image_size", "mean", "std"}
            ),
            "views": [str(view) for view in self.views],
            "pool": self._pool_digest,
        }
        if path.exists() and _metadata_of(load_npz(path)).get("cache_key") == cache_key:
            logger.info("target: scores are there")
            return
        from jaxmia.training.query import query_target

        phi, correct = query_target(
            self.target.query, self.images, self.pool.labels, self.views, self.config.query.batch_size
        )
        save_npz(
            path,
            {"phi": phi, "correct": correct, "metadata": np.array(json.dumps({"cache_key": cache_key, **origin()}))},
        )
        membership = self.pool.membership
        shares = [
            f"{correct[membership == value].mean():.4f} on public {name}"
            for value, name in ((1, "members"), (0, "non-members"))
            if (membership == value).any()
        ]
        logger.info("target: accuracy " + ", ".join(shares or [f"{correct.mean():.4f}"]))

    @cached_property
    def _pool_digest(self) -> str:
        pool = self.pool
        assert pool.images is not None
        return digest(pool.images, pool.labels)

    def cache_key(self) -> dict[str, Any]:
        """What a shadow model's scores depend on, beside its number."""
        return {
            "shadow": self.config.shadow.model_dump(mode="json", exclude={"count"}),
            "challenge": self.config.challenge.model_dump(mode="json", include={"image_size", "mean", "std"}),
            "classes": self._classes(),
            "views": [str(view) for view in self.views],
            "seed": self.config.seed,
            "pool": self._pool_digest,
        }

    def _classes(self) -> int:
        return self.target.classes or int(self.pool.labels.max()) + 1

    def _given(self, name: str) -> Path:
        path = getattr(self.config.challenge, name)
        if path is None:
            raise InputError(f"challenge.{name}: no file is named; set it in --config or by --challenge.{name} FILE")
        if not path.is_file():
            raise InputError(f"{path}: no such file (challenge.{name})")
        return path


def _present(store: ScoreStore, cache_key: Mapping[str, Any]) -> set[int]:
    """The models that are there, whole, and made as asked."""
    present: set[int] = set()
    for path, chunk in store.chunks():
        difference = describe_difference(chunk.metadata, {"cache_key": cache_key})
        if difference:
            raise InputError(
                f"{path}: was made by another configuration: {difference}; use another --out or remove the folder "
                f"{store.folder}"
            )
        present.update(chunk.model.tolist())
    return present


def _reporter(claims: Claims, log: EventLog, on_progress: Callable[["Progress"], None]) -> Callable[["Progress"], None]:
    """Tells of progress who looks on, the log once an epoch, and other processes."""
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


def _metadata_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    try:
        return json.loads(str(arrays.get("metadata", "{}")))
    except json.JSONDecodeError:
        return {}


def _parts(images: np.ndarray, size: int) -> Sequence[np.ndarray]:
    return [images[start : start + size] for start in range(0, len(images), size)]
