"""Asks models about every sample in every view."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from jaxmia.data.augment import View, apply_view
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.margin import logit_margin
from jaxmia.training.trainer import State


def query(
    ensemble: Ensemble,
    state: State,
    views: Sequence[View],
    batch_size: int,
    on_images: Callable[[int], None] = lambda images: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Queries every model on the whole pool.

    Args:
        ensemble: The models and the pool.
        state: Their state.
        views: How each image is shown; the first is the identity.
        batch_size: Images a step.
        on_images: Told the number of images of each step, when all before it are done.

    Returns:
        Logit margins in nats, float32 `[model, view, sample]`, and whether the class of the first view is right, bool
        `[model, sample]`.
    """
    samples = len(ensemble.images)
    batch_size = min(batch_size, samples)
    margins, rights = [], []
    for view in views:
        for start in range(0, samples, batch_size):
            # The last batch repeats the last sample, so that every batch has one shape; in eval mode none sees another.
            index = np.minimum(np.arange(start, start + batch_size), samples - 1).astype(np.int32)
            margin, correct = ensemble.margins(state, index, view)
            margins.append(margin)
            rights.append(correct)
            if len(margins) > 1:
                # At most one step waits behind the one that runs, so that what is told is done, or nearly.
                margins[-2].block_until_ready()
            on_images(min(batch_size, samples - start))
    per_view = -(-samples // batch_size)

    def joined(parts: list) -> np.ndarray:
        return np.concatenate([np.asarray(part) for part in parts], axis=1)[:, :samples]

    phi = [joined(margins[i * per_view : (i + 1) * per_view]) for i in range(len(views))]
    return np.stack(phi, axis=1), joined(rights[:per_view])


def query_target(
    logits_of: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    views: Sequence[View],
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Queries one model, given as a function, on the whole pool.

    Args:
        logits_of: Float32 logits `[sample, class]` of pool images `[sample, height, width, channel]`.
        images: The pool.
        labels: int `[sample]`.
        views: How each image is shown; the first is the identity.
        batch_size: Images a step.

    Returns:
        Logit margins in nats, float32 `[view, sample]`, and whether the class of the first view is right, bool
        `[sample]`.
    """
    starts = range(0, len(images), batch_size)
    phi, correct = [], np.empty(0)
    for view in views:
        logits = np.concatenate(
            [
                logits_of(np.asarray(apply_view(jnp.asarray(images[start : start + batch_size]), view)))
                for start in starts
            ]
        )
        phi.append(np.asarray(logit_margin(jnp.asarray(logits), jnp.asarray(labels))))
        if view == views[0]:
            correct = logits.argmax(-1) == labels
    return np.stack(phi), correct
