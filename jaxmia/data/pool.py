"""The pool of samples under attack: public samples first, then private ones."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer, Shaped

from jaxmia.data.kinds import TOKEN_TYPE, as_stored
from jaxmia.errors import InputError
from jaxmia.files import load_npz, save_npz
from jaxmia.provenance import digest

UNKNOWN = -1

ROUNDING = 1e-5
"""Tolerance for pixels that rounding puts outside [0, 1]."""


@dataclass(frozen=True)
class Pool:
    """All samples of a challenge, public samples first.

    Attributes:
        images: The samples, as the target takes them: images `[sample, height, width, channel]`, uint8 in [0, 255] or
            floats in [0, 1]; or rows of features `[sample, feature]`; or sequences of token ids, int32
            `[sample, position]`. None if only stored matrices are scored.
        labels: Class labels from 0.
        ids: Unique ids, as text.
        membership: 1 for members, 0 for non-members, -1 for unknown (private samples).

    Raises:
        InputError: An array has the wrong type, shape, length or range, a number is not finite, or an id is repeated.

    >>> images = np.zeros((3, 8, 8, 1), np.uint8)
    >>> Pool(images, np.array([0, 1, 1]), np.array(["a", "b", "c"]), np.array([1, 0, -1])).public
    array([ True,  True, False])
    """

    images: Shaped[np.ndarray, "sample ..."] | None
    labels: Integer[np.ndarray, " sample"]
    ids: Shaped[np.ndarray, " sample"]
    membership: Integer[np.ndarray, " sample"]

    def __post_init__(self) -> None:
        arrays = {"labels": self.labels, "ids": self.ids, "membership": self.membership}
        given = arrays if self.images is None else arrays | {"images": self.images}
        check_arrays("pool", given)
        for name, array in arrays.items():
            if array.ndim != 1:
                raise InputError(f"pool: {name} has shape {list(array.shape)}, expected [sample]")
        if self.images is not None:
            _check_samples(self.images)
        sizes = {name: len(array) for name, array in given.items()}
        if len(set(sizes.values())) > 1:
            raise InputError("pool: lengths differ: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
        _check_ids(self.ids)
        _check_integers(self.labels, self.membership)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        images = "no images" if self.images is None else f"{self.images.dtype} images {list(self.images.shape)}"
        return f"Pool({images}, {self.public.sum()} public and {(~self.public).sum()} private samples)"

    @property
    def public(self) -> Bool[np.ndarray, " sample"]:
        """Whether each sample is public, that is, its membership is known."""
        return self.membership != UNKNOWN

    def images_to(self, purpose: str) -> np.ndarray:
        """The images, which a purpose such as `query` requires.

        Raises:
            InputError: There are none; the message names the purpose.
        """
        if self.images is None:
            raise InputError(f"pool: has no images to {purpose}")
        return self.images

    def digest(self) -> str:
        """Digest of samples and labels; float images that equal uint8 images have the same digest as those."""
        return digest(as_stored(self.images_to("train on")), self.labels)

    def take(self, chosen: Bool[np.ndarray, " sample"] | Integer[np.ndarray, " chosen"]) -> "Pool":
        """Restricts the pool to the chosen samples, given by a mask or by indices."""
        images = None if self.images is None else self.images[chosen]
        return Pool(images, self.labels[chosen], self.ids[chosen], self.membership[chosen])

    def hiding(self, chosen: Bool[np.ndarray, " sample"]) -> "Pool":
        """Makes the membership of the chosen samples unknown."""
        return replace(self, membership=np.where(chosen, UNKNOWN, self.membership).astype(np.int8))

    def save(self, path: Path) -> None:
        """Writes ids, labels and membership (not the images) to an `.npz` file."""
        save_npz(path, {"ids": self.ids, "labels": self.labels, "membership": self.membership})

    @classmethod
    def load(cls, path: Path) -> "Pool":
        """Loads a pool written by `save`; its `images` are None.

        Raises:
            InputError: The file is missing or damaged, an array has the wrong shape, length or dtype, an id is
                repeated, a label is negative, or a membership is not one of 1, 0, -1.
        """
        arrays = load_npz(path, required=("ids", "labels", "membership"))
        try:
            ids = arrays["ids"].astype(np.str_)
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: ids: {error.object!r} is not ASCII text") from error
        try:
            loaded = cls(None, arrays["labels"], ids, arrays["membership"])
        except InputError as error:
            raise InputError(f"{path}: {str(error).removeprefix('pool: ')}") from error
        return replace(loaded, labels=loaded.labels.astype(np.int32), membership=loaded.membership.astype(np.int8))


def check_arrays(owner: str, given: Mapping[str, object]) -> None:
    """Checks that values given in Python are NumPy arrays.

    Raises:
        InputError: One is not; the message names the owner and the value.
    """
    for name, value in given.items():
        if not isinstance(value, np.ndarray):
            raise InputError(f"{owner}: {name} is a {type(value).__name__}, expected a NumPy array")


def _check_ids(ids: np.ndarray) -> None:
    if ids.dtype.kind not in "Uiu":
        raise InputError(f"pool: ids is {ids.dtype}, expected text or integers")
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"pool: ids: {str(values[counts > 1][0])!r} occurs {counts.max()} times, expected once")


def _check_integers(labels: np.ndarray, membership: np.ndarray) -> None:
    for name, values in (("labels", labels), ("membership", membership)):
        if values.dtype.kind not in "iub":
            raise InputError(f"pool: {name} is {values.dtype}, expected integers")
    strange = (labels < 0) | (labels > np.iinfo(np.int32).max)
    if strange.any():
        raise InputError(f"pool: labels: {labels[strange][0]} is not a class; classes are counted from 0")
    strange = ~np.isin(membership, (UNKNOWN, 0, 1))
    if strange.any():
        raise InputError(f"pool: membership: {membership[strange][0]} is not one of 1, 0, -1 (unknown)")


def _check_samples(samples: np.ndarray) -> None:
    if np.ndim(samples) not in (2, 4):
        raise InputError(
            f"pool: images have shape {list(np.shape(samples))}, expected [sample, height, width, channel], or "
            "[sample, feature] for rows of features"
        )
    if samples.ndim == 2 and samples.dtype.kind in "iu" and samples.dtype not in (np.uint8, TOKEN_TYPE):
        raise InputError(
            f"pool: rows of {samples.dtype} may be features or token ids; give features as float32, token ids as int32"
        )
    if 0 in samples.shape[1:]:
        raise InputError(f"pool: images have shape {list(samples.shape)}, expected at least one number for each sample")
    _check_numbers(samples)


def _check_numbers(samples: np.ndarray) -> None:
    """Rejects what training and queries would not notice: NaN, infinity, and images in other units."""
    if samples.ndim == 4 and samples.dtype != np.uint8 and samples.dtype.kind != "f":
        raise InputError(f"pool: images are {samples.dtype}, expected uint8 in 0 to 255 or floats in 0 to 1")
    if samples.dtype.kind not in "fiub":
        raise InputError(f"pool: images are {samples.dtype}, expected numbers")
    if samples.dtype.kind != "f" or not samples.size:
        return
    for number in (samples.min(), samples.max()):  # a NaN is both
        if not abs(number) <= np.finfo(np.float32).max:
            raise InputError(f"pool: images hold {number}, expected finite numbers of float32")
        if samples.ndim == 4 and not -ROUNDING <= number <= 1 + ROUNDING:
            raise InputError(f"pool: images hold {number}, allowed are floats from 0 to 1, or uint8 from 0 to 255")
