"""Checks that what a target answers are logits."""

from collections.abc import Callable

import numpy as np

from jaxmia.errors import InputError, printable

_ROUNDING = 1e-2
"""By which rows of probabilities may miss 1, in half precision too."""


def checked_logits(target: Callable[[np.ndarray], np.ndarray], classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """The target, whose answers are checked to be float32 logits `[sample, class]`.

    Args:
        target: Answers a batch of images.
        classes: Number of classes that the labels need, at least.

    Returns:
        A function that raises InputError where an answer is no array of numbers, has another shape, has too few
        classes, or holds probabilities.
    """

    def query(images: np.ndarray) -> np.ndarray:
        answer = target(images)
        try:
            logits = np.asarray(answer, np.float32)
        except Exception as error:  # of the framework that the answer is of
            reason = printable((str(error).strip().splitlines() or [type(error).__name__])[0])
            raise InputError(
                f"target: answers a {type(answer).__name__} that is no array of numbers ({reason}); return a NumPy "
                "array, as by logits.detach().cpu().numpy()"
            ) from error
        _refuse_shape(logits, len(images), classes)
        _refuse_probabilities(logits)
        return logits

    return query


def _refuse_shape(logits: np.ndarray, samples: int, classes: int) -> None:
    if logits.ndim != 2 or len(logits) != samples:
        raise InputError(
            f"target: answers an array of {list(logits.shape)} to {samples} images, expected logits [sample, class]"
        )
    if logits.shape[1] < classes:
        raise InputError(f"target: answers {logits.shape[1]} classes, the labels have {classes} (0 to {classes - 1})")


def _refuse_probabilities(logits: np.ndarray) -> None:
    between = (logits >= 0) & (logits <= 1 + _ROUNDING)
    if len(logits) > 1 and between.all() and np.allclose(logits.sum(-1, dtype=np.float64), 1, rtol=0, atol=_ROUNDING):
        raise InputError(
            "target: answers probabilities (rows in [0, 1] that sum to 1), expected logits: leave out its softmax, or "
            "return the probabilities' log"
        )
