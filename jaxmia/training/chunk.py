"""Trains shadow models in chunks and queries each chunk once it is trained."""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax.errors import JaxRuntimeError

from jaxmia.data.masks import Masks
from jaxmia.data.views import View
from jaxmia.runs.progress import Progress
from jaxmia.runs.store import Chunk
from jaxmia.training.checkpoint import Checkpoints
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.loop import Training
from jaxmia.training.measure import out_of_memory
from jaxmia.training.plan import Plan
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


def chunks_of(models: Sequence[int], width: int, resumable: Sequence[Sequence[int]] = ()) -> list[list[int]]:
    """Splits models into chunks of at most `width`; groups that have a checkpoint in common come first."""
    begun = {model for group in resumable for model in group}
    rest = [model for model in models if model not in begun]
    return [part for group in [*resumable, rest] for part in split(group, width)]


def train_each(chunks: Sequence[list[int]], train: Callable[[list[int]], None], plan: Plan) -> None:
    """Calls `train` with each chunk; if one runs out of memory, all remaining chunks are halved.

    Raises:
        MemoryError, JaxRuntimeError: One model on each device of the plan does not fit either.
    """
    waiting = list(chunks)
    while waiting:
        try:
            train(waiting[0])
            waiting.pop(0)
        except (MemoryError, JaxRuntimeError) as error:
            width = len(plan.padded(waiting[0])) // 2
            if not out_of_memory(error) or width < len(plan.devices):
                raise
            logger.info(f"training: out of memory at width {len(waiting[0])}, retrying with {width}")
            waiting = [part for group in waiting for part in split(group, width)]


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
        with _ShadowTraining(self, models, checkpoints) as training:
            training.run()
            return self._query(training)

    def train(self, models: Sequence[int]) -> Iterator[Chunk]:
        """Trains the given models in chunks of at most the plan's width, and yields each chunk."""
        for chunk in split(models, self.ensemble.plan.width):
            yield self.train_chunk(chunk)

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

    def _query(self, training: "_ShadowTraining") -> Chunk:
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

    def _keep(self, training: "_ShadowTraining", chunk: Chunk) -> str | None:
        rows = np.flatnonzero(np.isin(training.models, chunk.model))
        state = jax.tree.map(lambda array: array[rows], training.state) if chunk.diverged else training.state
        return self.keep(chunk.model.tolist(), state)


class _ShadowTraining(Training):
    """The training of one chunk, with its training curve.

    Attributes:
        curve: Training curve, float32 `[model, point, (epoch, loss, accuracy IN, accuracy OUT)]`.
        images: Number of images in the whole training, over all padded models.
    """

    def __init__(self, shadows: ShadowTrainer, models: Sequence[int], checkpoints: Checkpoints | None) -> None:
        super().__init__(
            shadows.ensemble, shadows.masks, models, checkpoints=checkpoints, stop_signal=shadows.stop_signal
        )
        self._recipe = recipe = shadows.ensemble.trainer.recipe
        self._on_progress = shadows.on_progress
        self._probes = np.linspace(0, recipe.epochs, min(_PROBES, recipe.epochs) + 1).round().astype(int)[1:].tolist()
        self._losses = np.zeros(len(self.padded_models))
        """Sum of the losses over the steps of the current epoch in nats, `[model]`."""
        self._pending: list[jax.Array] = []
        """Losses of the steps of calls that may still be running, `[model, step]`."""
        self.curve = np.full((len(self.padded_models), len(self._probes), 4), np.nan, np.float32)
        self.images = self.steps * recipe.batch_size * len(self.padded_models)

    def end_of_call(self, most: int) -> int:
        """Splits each epoch into calls of nearly equal size."""
        per_epoch = self.batches.steps_per_epoch
        epoch, within = divmod(self.step, per_epoch)
        ends = _ends_of_calls(per_epoch, most)
        return epoch * per_epoch + int(ends[np.searchsorted(ends, within, "right")])

    def after_call(self, losses: jax.Array) -> None:
        """Collects the losses; ends the epoch after its last step."""
        self._pending.append(losses)
        epoch, within = divmod(self.step, self.batches.steps_per_epoch)
        if not within:
            self._end_epoch(epoch)

    def tree(self) -> dict[str, Any]:
        """The state, the curve and the losses of the current epoch."""
        self._settle()
        return {**super().tree(), "curve": self.curve, "losses": self._losses}

    def restore(self, tree: dict[str, Any]) -> None:
        """Takes what `tree` returned when a checkpoint was saved."""
        super().restore(tree)
        self.curve, self._losses = tree["curve"], tree["losses"]

    def _end_epoch(self, epoch: int) -> None:
        self._settle()
        loss, self._losses = self._losses / self.batches.steps_per_epoch, np.zeros(len(self.padded_models))
        shares = (float("nan"), float("nan"))
        if epoch in self._probes:
            point = self._probes.index(epoch)
            probe = np.arange(min(_PROBE_SAMPLES, len(self.ensemble.images)), dtype=np.int32)
            correct = np.asarray(self.ensemble.margins(self.state, probe, View())[1])
            inside, outside = accuracy(correct, self.mask[:, probe]), accuracy(correct, ~self.mask[:, probe])
            self.curve[:, point] = np.stack([np.full(len(loss), epoch), loss, inside, outside], axis=-1)
        passed = sum(probe <= epoch for probe in self._probes)
        if passed:
            shares = tuple(_mean(self.curve[:, passed - 1, column]) for column in (2, 3))
        seen = self.step * self._recipe.batch_size * len(self.padded_models)
        self._on_progress(
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


@functools.cache
def _ends_of_calls(steps: int, most: int) -> np.ndarray:
    """Ends of as few calls of at most `most` steps as possible, of nearly equal size, int `[call]`."""
    return np.cumsum([len(part) for part in np.array_split(np.arange(steps), -(-steps // most))])


def accuracy(correct: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Fraction of `correct` where `among`, both bool `[model, sample]`: float32 `[model]`, NaN where none is chosen."""
    count = among.sum(1)
    share = (correct & among).sum(1) / np.maximum(count, 1)
    return np.where(count > 0, share, np.nan).astype(np.float32)


def _mean(values: np.ndarray) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))
