"""Trains shadow models in chunks and queries each chunk once it is trained."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import jax
import numpy as np

from jaxmia.data.masks import Masks
from jaxmia.data.views import View
from jaxmia.runs.progress import Progress
from jaxmia.runs.signals import Interrupted
from jaxmia.runs.store import Chunk
from jaxmia.training.arrays import named_arrays, tree_of
from jaxmia.training.batches import Batches
from jaxmia.training.checkpoint import Checkpoints, CheckpointWriter, Snapshot
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.optimizer import hyper_of
from jaxmia.training.pace import Pace
from jaxmia.training.query import query
from jaxmia.training.trainer import State

logger = logging.getLogger(__name__)

_PROBES = 20
_PROBE_SAMPLES = 256


def split(models: Sequence[int], width: int) -> list[list[int]]:
    """Splits models into as few chunks of at most `width` as possible, of nearly equal size, the larger ones first.

    Splitting what remains after the first chunks gives the same chunks, so that a resumed run trains the chunks that it
    would have trained without the interruption.
    """
    return [part.tolist() for part in np.array_split(np.asarray(models), -(-len(models) // width))] if models else []


@dataclass(frozen=True)
class ShadowTrainer:
    """Trains and queries chunks of shadow models.

    Attributes:
        ensemble: Ensemble that trains the models.
        masks: Membership masks; their seed also determines the batch order.
        views: Views in which each image is queried.
        query_batch: Number of images in a query step.
        metadata: Metadata stored with each chunk.
        on_progress: Called with the progress after each epoch and each query step.
        stop_signal: Returns the number of a received signal, or None; called after each step.
        keep: Called with the models and their trained state to keep weights; returns their digest, or None.
    """

    ensemble: Ensemble
    masks: Masks
    views: Sequence[View]
    query_batch: int = 512
    metadata: Mapping[str, Any] = field(default_factory=dict)
    on_progress: Callable[[Progress], None] = lambda progress: None
    stop_signal: Callable[[], int | None] = lambda: None
    keep: Callable[[Sequence[int], State], str | None] = lambda models, state: None

    def train_chunk(self, models: Sequence[int], checkpoints: Checkpoints | None = None) -> Chunk:
        """Trains the models together and queries them, resuming from a checkpoint if there is one.

        Raises:
            Interrupted: A signal was received; the progress so far is saved.
        """
        padded_models = self.padded_models(models)
        snapshot = checkpoints.restore(models) if checkpoints else None
        writer = checkpoints.writer(models) if checkpoints else None
        try:
            training = _Training(self, models, padded_models, writer)
            training.run(snapshot)
            return self._query(training)
        finally:
            if writer:
                writer.close()

    def train(self, models: Sequence[int]) -> Iterator[Chunk]:
        """Trains the given models in chunks of at most the plan's width, and yields each chunk."""
        for chunk in split(models, self.ensemble.plan.width):
            yield self.train_chunk(chunk)

    def padded_models(self, models: Sequence[int]) -> list[int]:
        """Pads the models to a multiple of the number of devices by repeating the last one."""
        surplus = -len(models) % len(self.ensemble.plan.devices)
        return [*models, *[models[-1]] * surplus]

    def query(
        self, padded_models: Sequence[int], state: State, leave: Callable[[], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Queries trained models on the whole pool.

        Args:
            padded_models: Numbers of the models, padded to a multiple of the number of devices.
            state: State of these models.
            leave: Called after each step; may raise to end the query.

        Returns:
            Logit margins in nats, float32 `[model, view, sample]`, and whether the prediction in the first view is
            correct, bool `[model, sample]`.
        """
        epochs = self.ensemble.trainer.recipe.epochs
        total = len(self.ensemble.images) * len(self.views) * len(padded_models)
        done = 0

        def on_images(images: int) -> None:
            nonlocal done
            done += images * len(padded_models)
            self.on_progress(Progress("querying", padded_models, done, total, epochs, epochs))
            leave()

        return query(self.ensemble, state, self.views, self.query_batch, on_images)

    def _query(self, training: "_Training") -> Chunk:
        started = time.perf_counter()
        kept, padded_models = len(training.models), training.padded_models
        phi, correct = self.query(padded_models, training.state, training.raise_if_stopped)
        seconds = {"train_seconds": training.seconds, "query_seconds": time.perf_counter() - started}
        trained = {"trained_images": training.images, "trained_together": len(padded_models)}
        chunk = Chunk(
            model=np.array(training.models),
            mask=training.mask[:kept],
            phi=phi[:kept],
            accuracy=accuracy(correct, ~training.mask)[:kept],
            accuracy_in=accuracy(correct, training.mask)[:kept],
            extra={"curve": training.curve[:kept]},
            metadata={**self.metadata, **seconds, **trained},
            free=None if self.masks.free.all() else self.masks.free,
        ).healthy()
        if chunk.diverged:
            logger.warning(
                f"shadows: {', '.join(map(str, chunk.diverged))} diverged and are left out; a learning rate below "
                f"{self.ensemble.trainer.recipe.learning_rate:g} (shadow.learning_rate) may help"
            )
        weights = self._keep(training, chunk) if chunk.model.size else None
        return replace(chunk, metadata={**chunk.metadata, **({"weights": weights} if weights else {})})

    def _keep(self, training: "_Training", chunk: Chunk) -> str | None:
        rows = np.flatnonzero(np.isin(training.models, chunk.model))
        state = jax.tree.map(lambda array: array[rows], training.state) if chunk.diverged else training.state
        return self.keep(chunk.model.tolist(), state)


class _Training:
    """The training of one chunk, step by step.

    Attributes:
        models: Numbers of the models.
        padded_models: The same models, padded to a multiple of the number of devices.
        mask: Membership masks of the padded models, bool `[model, sample]`; True is IN.
        state: State of the padded models.
        curve: Training curve, float32 `[model, point, (epoch, loss, accuracy IN, accuracy OUT)]`.
        images: Number of images in the whole training, over all padded models.
        seconds: Training time in seconds, including that before an interruption.
    """

    def __init__(
        self,
        shadows: ShadowTrainer,
        models: Sequence[int],
        padded_models: Sequence[int],
        writer: CheckpointWriter | None,
    ) -> None:
        self._shadows = shadows
        self._ensemble = shadows.ensemble
        self._recipe = recipe = shadows.ensemble.trainer.recipe
        self._writer = writer
        self.models = list(models)
        self.padded_models = list(padded_models)
        self.mask = shadows.masks(padded_models)
        self._batches = Batches(shadows.masks.seed, padded_models, self.mask, recipe.epochs, recipe.batch_size)
        self.images = self._batches.steps * recipe.batch_size * len(padded_models)
        self._probes = np.linspace(0, recipe.epochs, min(_PROBES, recipe.epochs) + 1).round().astype(int)[1:].tolist()
        self._step = 0
        self._losses = np.zeros(len(padded_models))
        """Sum of the losses over the steps of the current epoch in nats, `[model]`."""
        self._pending: list[jax.Array] = []
        """Losses of the steps of calls that may still be running, `[model, step]`."""
        self.curve = np.full((len(padded_models), len(self._probes), 4), np.nan, np.float32)
        self.state = self._ensemble.init(padded_models)
        self.seconds = 0.0

    def run(self, snapshot: Snapshot | None) -> None:
        """Trains to the end, from the snapshot if there is one."""
        if snapshot:
            self._restore(snapshot)
        per_epoch = self._batches.steps_per_epoch
        pace = Pace(self._ensemble)
        ends = np.cumsum([len(part) for part in np.array_split(np.arange(per_epoch), -(-per_epoch // pace.most))])
        keys = self._ensemble.keys(self.padded_models)
        hyper = jax.tree.map(lambda value: np.full(len(self.padded_models), value, np.float32), hyper_of(self._recipe))
        started = time.perf_counter() - self.seconds
        while self._step < self._batches.steps:
            epoch, within = divmod(self._step, per_epoch)
            count = pace.choose(int(ends[ends > within][0]) - within)
            index = self._batches.block(self._step, count)
            self.state, metrics = self._ensemble.run(self.state, hyper, keys, index, self._step, self._batches.total)
            if self._pending:
                # At most one call is queued behind the running one, so that a signal is handled within a call or two.
                self._pending[-1].block_until_ready()
            self._pending.append(metrics["loss"])
            self._step += count
            if within + count == per_epoch:
                self._end_epoch(epoch + 1)
            self.seconds = time.perf_counter() - started
            self.raise_if_stopped()
            if self._writer and self._writer.due():
                self._writer.save(self._snapshot())

    def raise_if_stopped(self) -> None:
        """Saves a checkpoint and raises `Interrupted` if a signal was received."""
        number = self._shadows.stop_signal()
        if number is not None:
            self._save_and_stop(number)

    def _save_and_stop(self, number: int) -> NoReturn:
        saved = self._writer is not None and self._writer.save(self._snapshot(), wait=True)
        who = f"models {self.models[0]}-{self.models[-1]}"
        if saved:
            where = f"{who} are saved at step {self._step} of {self._batches.steps}; the same command resumes there"
        else:
            where = f"{who} are not saved; the same command resumes from the last checkpoint or finished chunk"
        raise Interrupted(number, where)

    def _end_epoch(self, epoch: int) -> None:
        self._settle()
        loss, self._losses = self._losses / self._batches.steps_per_epoch, np.zeros(len(self.padded_models))
        shares = (float("nan"), float("nan"))
        if epoch in self._probes:
            point = self._probes.index(epoch)
            probe = np.arange(min(_PROBE_SAMPLES, len(self._ensemble.images)), dtype=np.int32)
            correct = np.asarray(self._ensemble.margins(self.state, probe, View())[1])
            inside, outside = accuracy(correct, self.mask[:, probe]), accuracy(correct, ~self.mask[:, probe])
            self.curve[:, point] = np.stack([np.full(len(loss), epoch), loss, inside, outside], axis=-1)
        passed = sum(probe <= epoch for probe in self._probes)
        if passed:
            shares = tuple(_mean(self.curve[:, passed - 1, column]) for column in (2, 3))
        seen = self._step * self._recipe.batch_size * len(self.padded_models)
        self._shadows.on_progress(
            Progress(
                "training",
                self.padded_models,
                seen,
                self.images,
                epoch,
                self._recipe.epochs,
                float(loss.mean()),
                *shares,
            )
        )

    def _settle(self) -> None:
        for losses in self._pending:
            self._losses += np.asarray(losses, np.float64).sum(1)
        self._pending.clear()

    def _snapshot(self) -> Snapshot:
        self._settle()
        kept = len(self.models)
        return Snapshot(
            self._step, self.seconds, {name: array[:kept] for name, array in named_arrays(self._tree()).items()}
        )

    def _restore(self, snapshot: Snapshot) -> None:
        source = f"the checkpoint of models {self.models[0]}-{self.models[-1]}"
        surplus = len(self.padded_models) - len(self.models)
        arrays = {name: np.concatenate([array, *[array[-1:]] * surplus]) for name, array in snapshot.arrays.items()}
        tree = tree_of(arrays, self._tree(), source)
        self.state, self.curve, self._losses = tree["state"], tree["curve"], tree["losses"]
        self._step, self.seconds = snapshot.step, snapshot.seconds
        who = f"models {self.models[0]}-{self.models[-1]}"
        logger.info(f"shadows: {who} resume from their checkpoint at step {self._step} of {self._batches.steps}")

    def _tree(self) -> dict[str, Any]:
        """Everything that changes from step to step, with a leading model axis."""
        return {"state": self.state, "curve": self.curve, "losses": self._losses}


def accuracy(correct: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Fraction of `correct` where `among`, both bool `[model, sample]`: float32 `[model]`, NaN where none is chosen."""
    count = among.sum(1)
    share = (correct & among).sum(1) / np.maximum(count, 1)
    return np.where(count > 0, share, np.nan).astype(np.float32)


def _mean(values: np.ndarray) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))
