"""Trains shadow models a chunk at a time and queries each chunk at once."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxmia.augment import View
from jaxmia.masks import membership_masks
from jaxmia.scores.store import Chunk
from jaxmia.training.batches import Batches
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.optimizer import hyper_of
from jaxmia.training.plan import Plan
from jaxmia.training.query import query
from jaxmia.training.step import State, Trainer

_PROBES = 20
_PROBE_SAMPLES = 256


@dataclass(frozen=True)
class Progress:
    """What is known of a chunk at one moment.

    Attributes:
        stage: `training` or `querying`.
        models: Numbers of the chunk's models.
        done: Images trained on, or queried, over all models.
        total: Images to train on, or to query.
        epoch: Epochs done, of `epochs`.
        epochs: Epochs to do.
        loss: Mean training loss in nats.
        accuracy_in: Accuracy on probed IN samples, in eval mode.
        accuracy_out: Accuracy on probed OUT samples.
    """

    stage: str
    models: Sequence[int]
    done: int
    total: int
    epoch: float
    epochs: int
    loss: float = float("nan")
    accuracy_in: float = float("nan")
    accuracy_out: float = float("nan")


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
    """Trains the given models, `plan.width` at a time, and yields each chunk with its scores of the whole pool.

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
    width = even_width(len(models), plan.width, len(plan.devices))
    for start in range(0, len(models), width):
        chunk = list(models[start : start + width])
        # Every chunk has one shape, so that it compiles once: the last is filled up and the surplus dropped.
        padded = chunk + chunk[-1:] * (width - len(chunk))
        yield _train_chunk(ensemble, padded, len(chunk), seed, views, query_batch, made or {}, on_progress)


def even_width(models: int, width: int, devices: int) -> int:
    """The smallest width, a multiple of `devices`, that needs no more chunks than `width` does."""
    chunks = -(-models // width)
    even = -(-models // chunks)
    return even + -even % devices


def _train_chunk(
    ensemble: Ensemble,
    models: Sequence[int],
    kept: int,
    seed: int,
    views: Sequence[View],
    query_batch: int,
    made: Mapping[str, Any],
    on_progress: Callable[[Progress], None],
) -> Chunk:
    recipe = ensemble.trainer.recipe
    mask = membership_masks(seed, models, len(ensemble.images))
    started = time.perf_counter()
    state, curve = _train(ensemble, models, mask, seed, on_progress)
    trained = time.perf_counter()
    total = len(ensemble.images) * len(views) * len(models)
    done = 0

    def on_images(images: int) -> None:
        nonlocal done
        done += images * len(models)
        on_progress(Progress("querying", models, done, total, recipe.epochs, recipe.epochs))

    phi, right = query(ensemble, state, views, query_batch, on_images)
    timing = {"train_seconds": trained - started, "query_seconds": time.perf_counter() - trained}
    return Chunk(
        model=np.array(models[:kept]),
        mask=mask[:kept],
        phi=phi[:kept],
        accuracy=_accuracy(right, ~mask)[:kept],
        accuracy_in=_accuracy(right, mask)[:kept],
        extra={"curve": curve[:kept]},
        made={**made, **timing, "trained_together": len(models)},
    )


def _train(
    ensemble: Ensemble,
    models: Sequence[int],
    mask: np.ndarray,
    seed: int,
    on_progress: Callable[[Progress], None],
) -> tuple[State, np.ndarray]:
    """The trained state, and the curve float32 `[model, point, (epoch, loss, accuracy IN, accuracy OUT)]`."""
    recipe = ensemble.trainer.recipe
    batches = Batches(seed, models, mask, recipe.epochs, recipe.batch_size)
    state = ensemble.init(models)
    keys = ensemble.keys(models)
    hyper = jax.tree.map(lambda value: np.full(len(models), value, np.float32), hyper_of(recipe))
    per_epoch = batches.steps_per_epoch
    probes = set(np.linspace(0, recipe.epochs, min(_PROBES, recipe.epochs) + 1).round().astype(int)[1:])
    probe = np.arange(min(_PROBE_SAMPLES, len(ensemble.images)), dtype=np.int32)
    curve: list[np.ndarray] = []
    accuracy = (float("nan"), float("nan"))
    for epoch in range(1, recipe.epochs + 1):
        first = (epoch - 1) * per_epoch
        count = min(per_epoch, batches.steps - first)
        if count <= 0:
            break
        index = batches.block(first, count)
        state, metrics = ensemble.run(state, hyper, keys, index, first, batches.total)
        loss = np.asarray(metrics["loss"])
        if epoch in probes:
            _, right = ensemble.margins(state, probe, View())
            right = np.asarray(right)
            inside, outside = _accuracy(right, mask[:, probe]), _accuracy(right, ~mask[:, probe])
            curve.append(np.stack([np.full(len(models), epoch), loss, inside, outside], axis=-1))
            accuracy = (float(np.nanmean(inside)), float(np.nanmean(outside)))
        seen = min(first + count, batches.steps) * recipe.batch_size * len(models)
        whole = batches.steps * recipe.batch_size * len(models)
        figures = (float(loss.mean()), *accuracy)
        on_progress(Progress("training", models, seen, whole, epoch, recipe.epochs, *figures))
    return state, np.stack(curve, axis=1).astype(np.float32)


def _accuracy(right: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Share of `right` among the chosen samples, float32 `[model]`; nan where none is chosen."""
    count = among.sum(1)
    share = (right & among).sum(1) / np.maximum(count, 1)
    return np.where(count > 0, share, np.nan).astype(np.float32)
