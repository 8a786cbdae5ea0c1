# pyright: strict
"""Logit margins of trained shadow models, as `train_shadows` returns them and `attack` takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxmia.data.pool import check_arrays
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.data.views import View
from jaxmia.errors import InputError
from jaxmia.validation import check_instance

_ARRAYS = {
    "phi": (("f", "floats"), ("model", "view", "sample")),
    "mask": (("b", "booleans"), ("model", "sample")),
    "fold": (("iu", "integers"), ("sample",)),
    "free": (("b", "booleans"), ("sample",)),
}
"""NumPy's kinds and a word for the type, and the axes, of the arrays of `TrainedShadows`."""


@dataclass(frozen=True)
class TrainedShadows:
    """Logit margins of trained shadow models on every sample of a pool.

    Attributes:
        phi: Logit margins in nats, float32 `[model, view, sample]`.
        mask: Whether each model was trained on each sample, bool `[model, sample]`.
        views: Views in which each image was queried.
        preprocessing: Preprocessing of the shadow models; the target is queried on images of the same size.
        fold: Fold of each sample, int `[sample]`, if each row joins a model of every fold (`audit`); None otherwise.
        free: Whether the membership of a sample was drawn for each model, bool `[sample]`; None if all were. The
            memberships of the other samples are fixed (`Recipe.known`), so these cannot be scored.

    Raises:
        InputError: A field is not an array of the expected type and axes, arrays differ in the number of models, views
            or samples, a view is not a `View`, or the preprocessing is not a `Preprocessing`.
    """

    phi: NDArray[np.float32]
    mask: NDArray[np.bool_]
    views: tuple[View, ...] = (View(),)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    fold: NDArray[np.integer[Any]] | None = None
    free: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        check_instance(self.preprocessing, Preprocessing, "shadows: preprocessing")
        check_instance(self.views, Sequence, "shadows: views")
        for view in self.views:
            check_instance(view, View, "shadows: views")
        optional = {"fold": self.fold, "free": self.free}
        optional = {name: array for name, array in optional.items() if array is not None}
        _check_arrays({"phi": self.phi, "mask": self.mask, **optional}, len(self.views))


def _check_arrays(arrays: Mapping[str, NDArray[Any]], views: int) -> None:
    """Checks types and axes, and that arrays with an axis in common have as many entries along it."""
    check_arrays("shadows", arrays)
    sizes = {"view": views}
    for name, array in arrays.items():
        (types, kind), axes = _ARRAYS[name]
        expected = tuple(sizes.setdefault(axis, size) for axis, size in zip(axes, array.shape, strict=False))
        if array.dtype.kind not in types or array.ndim != len(axes) or array.shape != expected:
            known = ", ".join(f"{axis} {sizes[axis]}" for axis in axes if axis in sizes)
            raise InputError(
                f"shadows: {name} is {array.dtype} of shape {list(array.shape)}, expected {kind} [{', '.join(axes)}]"
                + (f" with {known}" if known else "")
            )
