"""Trains shadow models a chunk at a time and queries each chunk at once."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import jax
import numpy as np

from jaxmia.data.augment import View
from jaxmia.data.masks import membership_masks
from jaxmia.runs.progress import Progress
from jaxmia.runs.signals import Interrupted
from jaxmia.runs.store import Chunk
from jaxmia.training.arrays import named_arrays, tree_of
from jaxmia.training.batches import Batches
from jaxmia.training.checkpoint import Checkpoints, CheckpointWriter, Moment
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.optimizer import hyper_of
from jaxmia.training.plan import Plan
from jaxmia.training.query import query
from jaxmia.training.trainer import State, Trainer

_PROBES = 20
_PROBE_SAMPLES = 256
_STEPS_A_CALL = 64
"""At most, where many steps run in one call: a call cannot be interrupted."""


def train_shadows(
    trainer: Trainer,
    images: np.ndarray,
    labels: np.ndarray,
    models: Sequence[int],
    *,
    seed: int,
    views: Sequence[View],
    plan: Plan,
    query_batch: int = 512,
    made: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[Chunk]:
    """Trains the given models, at most `plan.width` at a time, and yields each chunk with its scores of the whole pool.

    Model `i` depends on the trainer, the pool, the seed and `i` only.

    Args:
        trainer: How each trains.
        images: The pool, uint8 or float `[sample, height, width, channel]`.
        labels: int `[sample]`.
        models: Numbers of the models.
        seed: Seed of masks, initial weights, orders and augmentation.
        views: How each image is shown in the query.
        plan: Width, lowering and devices.
        query_batch: Images a step of the query.
        made: What to keep with each chunk.
        on_progress: Told after each epoch and each step of the query.
    """
    ensemble = Ensemble(trainer, seed, images, labels, sequential=plan.sequential, devices=plan.devices)
    shadows = Shadows(ensemble, seed, views, query_batch, made or {}, on_progress)
    for chunk in split(models, plan.width):
        yield shadows.make(chunk)


def split(models: Sequence[int], width: int) -> list[list[int]]:
    """Parts of at most `width` models, as few and as even as can be, the larger first.

    Without its first parts the rest is split as before: a run that goes on makes the chunks that it would have made.
    """
    return [part.tolist() for part in np.array_split(np.asarray(models), -(-len(models) // width))] if models else []


@dataclass(frozen=True)
class Shadows:
    """Makes chunks of shadow models.

    Attributes:
        ensemble: Trains them.
        seed: Seed of masks and orders.
        views: How each image is shown in the query.
        query_batch: Images a step of the query.
        made: What to keep with each chunk.
        on_progress: Told after each epoch and each step of the query.
        stopped: The number of the signal that came, or None; asked after each step.
        keep: Given the models and their trained state; names what it kept.
    """

    ensemble: Ensemble
    seed: int
    views: Sequence[View]
    query_batch: int = 512
    made: Mapping[str, Any] = field(default_factory=dict)
    on_progress: Callable[[Progress], None] = lambda progress: None
    stopped: Callable[[], int | None] = lambda: None
    keep: Callable[[Sequence[int], State], str | None] = lambda models, state: None

    def make(self, models: Sequence[int], checkpoints: Checkpoints | None = None) -> Chunk:
        """Trains the models together and queries them; goes on from a checkpoint where there is one.

        Raises:
            Interrupted: A signal came; what was done is saved.
        """
        together = self.together(models)
        begun = checkpoints.restore(models) if checkpoints else None
        writer = checkpoints.writer(models) if checkpoints else None
        try:
            training = _Training(self, models, together, writer)
            training.run(begun)
            return self._query(training, self.keep(models, training.state))
        finally:
            if writer:
                writer.close()

    def together(self, models: Sequence[int]) -> list[int]:
        """The models and as many copies of the last as make them a multiple of the devices."""
        surplus = -len(models) % len(self.ensemble.devices)
        return [*models, *[models[-1]] * surplus]

    def ask(self, together: Sequence[int], state: State, leave: Callable[[], None]) -> tuple[np.ndarray, np.ndarray]:
        """Queries trained models on the whole pool.

        Args:
            together: Numbers of the models of the state.
            state: Of these models.
            leave: Called after each step; raises to end the query.

        Returns:
            Logit margins in nats, float32 `[model, view, sample]`, and whether the class of the first view is right,
            bool `[model, sample]`.
        """
        epochs = self.ensemble.trainer.recipe.epochs
        total = len(self.ensemble.images) * len(self.views) * len(together)
        done = 0

        def on_images(images: int) -> None:
            nonlocal done
            done += images * len(together)
            self.on_progress(Progress("querying", together, done, total, epochs, epochs))
            leave()

        return query(self.ensemble, state, self.views, self.query_batch, on_images)

    def _query(self, training: "_Training", weights: str | None) -> Chunk:
        started = time.perf_counter()
        kept, together = len(training.models), training.together
        phi, right = self.ask(together, training.state, training.leave_if_told)
        seconds = {"train_seconds": training.seconds, "query_seconds": time.perf_counter() - started}
        trained = {"trained_images": training.images, "trained_together": len(together)}
        return Chunk(
            model=np.array(training.models),
            mask=training.mask[:kept],
            phi=phi[:kept],
            accuracy=accuracy(right, ~training.mask)[:kept],
            accuracy_in=accuracy(right, training.mask)[:kept],
            extra={"curve": training.curve[:kept]},
            made={**self.made, **seconds, **trained, **({"weights": weights} if weights else {})},
        )


class _Training:
    """The training of one chunk, step by step.

    Attributes:
        models: Numbers of the models.
        together: The same and those that fill the devices.
        mask: Who is IN, bool `[model, sample]`, of those together.
        state: Of those together.
        curve: float32 `[model, point, (epoch, loss, accuracy IN, accuracy OUT)]`.
        images: Images that the training shows to all of them.
        seconds: Time spent, before the last interruption too.
    """

    def __init__(
        self, shadows: Shadows, models: Sequence[int], together: Sequence[int], writer: CheckpointWriter | None
    ) -> None:
        self._shadows = shadows
        self._ensemble = shadows.ensemble
        self._recipe = recipe = shadows.ensemble.trainer.recipe
        self._writer = writer
        self.models = list(models)
        self.together = list(together)
        self.mask = membership_masks(shadows.seed, together, len(self._ensemble.images))
        self._batches = Batches(shadows.seed, together, self.mask, recipe.epochs, recipe.batch_size)
        self.images = self._batches.steps * recipe.batch_size * len(together)
        self._probes = np.linspace(0, recipe.epochs, min(_PROBES, recipe.epochs) + 1).round().astype(int)[1:].tolist()
        self._step = 0
        self._losses = np.zeros(len(together))
        """Sum of the losses of this epoch's steps, nats `[model]`."""
        self._pending: list[tuple[int, jax.Array]] = []
        """Steps and mean losses of calls that may still be running."""
        self.curve = np.full((len(together), len(self._probes), 4), np.nan, np.float32)
        self.state = self._ensemble.init(together)
        self.seconds = 0.0

    def run(self, begun: Moment | None) -> None:
        """Trains to the end, from where the models were begun."""
        if begun:
            self._take_up(begun)
        per_epoch = self._batches.steps_per_epoch
        most = _STEPS_A_CALL if self._ensemble.programs.steps_in_one_call else 1
        ends = np.cumsum([len(part) for part in np.array_split(np.arange(per_epoch), -(-per_epoch // most))])
        keys = self._ensemble.keys(self.together)
        hyper = jax.tree.map(lambda value: np.full(len(self.together), value, np.float32), hyper_of(self._recipe))
        started = time.perf_counter() - self.seconds
        while self._step < self._batches.steps:
            epoch, within = divmod(self._step, per_epoch)
            end = int(ends[ends > within][0])
            count = end - within
            index = self._batches.block(self._step, count)
            self.state, metrics = self._ensemble.run(self.state, hyper, keys, index, self._step, self._batches.total)
            if self._pending:
                # At most one call waits behind the one that runs, so that a signal is heard within a step or two.
                self._pending[-1][1].block_until_ready()
            self._pending.append((count, metrics["loss"]))
            self._step += count
            if end == per_epoch:
                self._end_epoch(epoch + 1)
            self.seconds = time.perf_counter() - started
            self.leave_if_told()
            if self._writer and self._writer.due():
                self._writer.save(self._moment())

    def leave_if_told(self) -> None:
        """Saves and raises `Interrupted` if a signal came."""
        number = self._shadows.stopped()
        if number is not None:
            self._leave(number)

    def _leave(self, number: int) -> NoReturn:
        saved = self._writer is not None and self._writer.save(self._moment(), wait=True)
        who = f"models {self.models[0]}-{self.models[-1]}"
        if saved:
            where = (
                f"{who} are saved at step {self._step} of {self._batches.steps}; the same command goes on from there"
            )
        else:
            where = f"{who} are not saved; the same command goes on from the last checkpoint or finished chunk"
        raise Interrupted(number, where)

    def _end_epoch(self, epoch: int) -> None:
        self._settle()
        loss, self._losses = self._losses / self._batches.steps_per_epoch, np.zeros(len(self.together))
        shares = (float("nan"), float("nan"))
        if epoch in self._probes:
            point = self._probes.index(epoch)
            probe = np.arange(min(_PROBE_SAMPLES, len(self._ensemble.images)), dtype=np.int32)
            right = np.asarray(self._ensemble.margins(self.state, probe, View())[1])
            inside, outside = accuracy(right, self.mask[:, probe]), accuracy(right, ~self.mask[:, probe])
            self.curve[:, point] = np.stack([np.full(len(loss), epoch), loss, inside, outside], axis=-1)
        passed = sum(probe <= epoch for probe in self._probes)
        if passed:
            shares = tuple(_mean(self.curve[:, passed - 1, column]) for column in (2, 3))
        seen = self._step * self._recipe.batch_size * len(self.together)
        self._shadows.on_progress(
            Progress(
                "training", self.together, seen, self.images, epoch, self._recipe.epochs, float(loss.mean()), *shares
            )
        )

    def _settle(self) -> None:
        for count, loss in self._pending:
            self._losses += count * np.asarray(loss, np.float64)
        self._pending.clear()

    def _moment(self) -> Moment:
        self._settle()
        kept = len(self.models)
        return Moment(
            self._step, self.seconds, {name: array[:kept] for name, array in named_arrays(self._tree()).items()}
        )

    def _take_up(self, begun: Moment) -> None:
        source = f"the checkpoint of models {self.models[0]}-{self.models[-1]}"
        surplus = len(self.together) - len(self.models)
        arrays = {name: np.concatenate([array, *[array[-1:]] * surplus]) for name, array in begun.arrays.items()}
        tree = tree_of(arrays, self._tree(), source)
        self.state, self.curve, self._losses = tree["state"], tree["curve"], tree["losses"]
        self._step, self.seconds = begun.step, begun.seconds

    def _tree(self) -> dict[str, Any]:
        """All that changes from step to step, axis 0 the model."""
        return {"state": self.state, "curve": self.curve, "losses": self._losses}


def accuracy(right: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Share of `right` among the chosen samples, both bool `[model, sample]`: float32 `[model]`, nan where none is."""
    count = among.sum(1)
    share = (right & among).sum(1) / np.maximum(count, 1)
    return np.where(count > 0, share, np.nan).astype(np.float32)


def _mean(values: np.ndarray) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))
