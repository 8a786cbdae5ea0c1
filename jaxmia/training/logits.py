"""Checks that a target returns logits."""

from collections.abc import Callable

import numpy as np

from jaxmia.errors import InputError, one_line
from jaxmia.models.probabilities import are_probabilities


def checked_logits(target: Callable[[np.ndarray], np.ndarray], classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Wraps a target so that its results are checked to be logits `[sample, class]` and converted to float32.

    Args:
        target: Function from a batch of images to logits.
        classes: Smallest number of classes, that of the labels.

    Returns:
        A function that raises InputError if a result is not an array of numbers, has the wrong shape or too few
        classes, or contains probabilities.

    Raises:
        InputError: The target cannot be called, or is a PyTorch module, which takes tensors.
    """
    check_target(target)

    def query(images: np.ndarray) -> np.ndarray:
        try:
            answer = target(images)
        except Exception as error:
            error.add_note(f"in the target, called with a NumPy array {images.dtype} of shape {list(images.shape)}")
            raise
        try:
            logits = np.asarray(answer, np.float32)
        except Exception as error:  # each framework raises its own exceptions
            raise InputError(
                f"target: returned a {type(answer).__name__} that is not an array of numbers ({one_line(error)}); "
                "return a NumPy array, as by logits.detach().cpu().numpy()"
            ) from error
        _refuse_shape(logits, len(images), classes)
        _refuse_probabilities(logits)
        return logits

    return query


def check_target(target: object) -> None:
    """Checks that a target can be called with a batch of images.

    Raises:
        InputError: It cannot be called, or is a PyTorch module, which takes tensors.
    """
    kind = type(target)
    if any(base.__module__ == "torch.nn.modules.module" for base in kind.__mro__):
        raise InputError(
            f"target: a {kind.__name__} is a PyTorch module, expected a function of a NumPy batch of pool images that "
            "returns logits, such as bridge.target.load_target(...).query"
        )
    if not callable(target):
        hint = "; give its method query" if callable(getattr(target, "query", None)) else ""
        raise InputError(
            f"target: a {kind.__name__} cannot be called, expected a function of a batch of images that returns logits"
            f"{hint}"
        )


def _refuse_shape(logits: np.ndarray, samples: int, classes: int) -> None:
    if logits.ndim != 2 or len(logits) != samples:
        raise InputError(
            f"target: returned an array of {list(logits.shape)} for {samples} images, expected logits [sample, class]"
        )
    if logits.shape[1] < classes:
        raise InputError(f"target: returned {logits.shape[1]} classes, the labels have {classes} (0 to {classes - 1})")


def _refuse_probabilities(logits: np.ndarray) -> None:
    if are_probabilities(logits):
        raise InputError(
            "target: returned probabilities (rows in [0, 1] that sum to 1), expected logits: leave out its softmax, or "
            "return the probabilities' log"
        )
