"""Queries models on every sample in every view."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int32, Integer, Shaped

from jaxmia.data.kinds import kind_of
from jaxmia.data.views import View
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.limits import check_address_space
from jaxmia.training.logits import checked_logits
from jaxmia.training.margin import logit_margin
from jaxmia.training.trainer import State


def query(
    ensemble: Ensemble,
    state: State,
    views: Sequence[View],
    batch_size: int,
    on_images: Callable[[int], None] = lambda images: None,
) -> tuple[Float32[np.ndarray, "model view sample"], Bool[np.ndarray, "model sample"]]:
    """Queries every model on the whole pool.

    Args:
        ensemble: Ensemble with the pool.
        state: State of the models.
        views: Views in which each image is queried; the first is the identity.
        batch_size: Number of images in a step.
        on_images: Called with the number of images of each step, once all steps before it are done.

    Returns:
        Logit margins in nats, and whether the prediction in the first view is correct.

    Raises:
        InputError: Memory ran out in a way in which XLA may compute wrong numbers; see `check_address_space`.
    """
    samples = len(ensemble.images)
    batches = fixed_batches(samples, batch_size)
    margins, hits = [], []
    for view in views:
        for index in batches:
            margin, correct = ensemble.margins(state, index, view)
            margins.append(margin)
            hits.append(correct)
            if len(margins) > 1:
                # At most one step is queued behind the running one, so that the reported progress is almost exact.
                margins[-2].block_until_ready()
            on_images(_images_in(index, samples))
    per_view = len(batches)

    def joined(parts: list) -> np.ndarray:
        return np.concatenate([np.asarray(part) for part in parts], axis=1)[:, :samples]

    phi = [joined(margins[i * per_view : (i + 1) * per_view]) for i in range(len(views))]
    correct = joined(hits[:per_view])
    check_address_space()
    return np.stack(phi, axis=1), correct


def query_target(
    logits_of: Callable[[np.ndarray], np.ndarray],
    images: Shaped[np.ndarray, "sample ..."],
    labels: Integer[np.ndarray, " sample"],
    views: Sequence[View],
    batch_size: int,
    on_images: Callable[[int], None] = lambda images: None,
) -> tuple[Float32[np.ndarray, "view sample"], Bool[np.ndarray, " sample"]]:
    """Queries one model, given as a function, on the whole pool.

    Args:
        logits_of: Function from a batch of samples of the pool to float32 logits `[sample, class]`.
        images: Samples of the pool.
        labels: Labels of the samples.
        views: Views in which each image is queried; the first is the identity.
        batch_size: Number of images in a step.
        on_images: Called with the number of images of each step.

    Returns:
        Logit margins in nats, and whether the prediction in the first view is correct.

    Raises:
        InputError: The results are not logits; see `checked_logits`.
    """
    logits_of = checked_logits(logits_of, int(labels.max(initial=-1)) + 1)
    samples = len(images)
    batches = fixed_batches(samples, batch_size)
    phi, correct = [], np.empty(0)
    for view in views:
        answers = []
        for index in batches:
            answers.append(logits_of(_in_view(images[index], view)))
            on_images(_images_in(index, samples))
        logits = np.concatenate(answers)[:samples]
        phi.append(np.asarray(logit_margin(jnp.asarray(logits), jnp.asarray(labels))))
        if view == views[0]:
            correct = logits.argmax(-1) == labels
    return np.stack(phi), correct


def _in_view(images: np.ndarray, view: View) -> np.ndarray:
    """Applies a view to a batch; the identity returns exactly the numbers of the pool, whatever their type."""
    if view == View():
        return images
    return np.asarray(kind_of(images).view(jnp.asarray(images), view))


def fixed_batches(samples: int, batch_size: int) -> list[Int32[np.ndarray, " batch"]]:
    """Splits the indices of all samples into batches of one size; the last batch repeats the last sample.

    All batches have the same shape, so that one program serves all; in eval mode samples do not affect each other.
    """
    size = min(batch_size, samples)
    starts = range(0, samples, size)
    return [np.minimum(np.arange(start, start + size), samples - 1).astype(np.int32) for start in starts]


def _images_in(batch: np.ndarray, samples: int) -> int:
    """Number of samples in a batch of `fixed_batches`, without repetitions."""
    return min(len(batch), samples - int(batch[0]))
