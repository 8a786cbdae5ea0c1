"""Kinds of samples: how a pool of each is batched, augmented, viewed and normalised.

The kind follows from the pool's array: images are `[sample, height, width, channel]`, rows of features
`[sample, feature]`, and sequences of token ids `[sample, position]`, the only ones of int32. To add a kind, add a class
with these methods and let `kind_of` return it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from jaxtyping import Float, Real, Shaped

from jaxmia.config import Augment, QueryView
from jaxmia.data.views import View, query_views
from jaxmia.errors import InputError

if TYPE_CHECKING:
    import jax

TOKEN_TYPE = np.dtype(np.int32)
"""Type of token ids; rows of any other type are features."""

_SAMPLES_AT_ONCE = 1024
_SQUARE = ("antitranspose", "rot270", "rot90", "transpose")
"""Symmetries that exchange height and width."""


class Kind(Protocol):
    """How training and queries treat samples of one kind.

    Attributes:
        name: Name of such samples, in the plural.
        axes: Names of the axes of a sample.
        columns: Name of the entries of the last axis, in the plural.
        standard: Default mean and standard deviation of the normalisation; None for samples that are not normalised.
    """

    name: str
    axes: str
    columns: str
    standard: tuple[float, float] | None

    def batch(self, key: "jax.Array", pool: "jax.Array", index: "jax.Array", augment: Augment) -> "jax.Array":
        """Gathers the batch of a training step from the pool, each sample augmented independently."""
        ...

    def view(self, samples: "jax.Array", view: View) -> "jax.Array":
        """Applies a view to each sample of a batch."""
        ...

    def query_views(
        self,
        symmetries: Sequence[QueryView],
        shift: int | Literal["auto"],
        augment: Augment,
        shape: tuple[int, ...],
    ) -> tuple[View, ...]:
        """Views of a query, of which `auto` derives symmetries and shift from the training augmentation.

        Raises:
            InputError: Such samples have no such views.
        """
        ...

    def check_augment(self, augment: Augment, shape: tuple[int, ...], field: str = "shadow.augment") -> None:
        """Checks that samples of this shape can be augmented like this.

        Raises:
            InputError: They cannot; the message names the field.
        """
        ...

    def check_views(self, symmetries: Sequence[str], shape: tuple[int, ...]) -> None:
        """Checks that samples of this shape have these symmetries.

        Raises:
            InputError: They cannot.
        """
        ...


class Images:
    """Images `[height, width, channel]`, uint8 in [0, 255] or floats in [0, 1]."""

    name = "images"
    axes = "[height, width, channel]"
    columns = "channels"
    standard: tuple[float, float] | None = (0.5, 0.5)

    def batch(self, key: "jax.Array", pool: "jax.Array", index: "jax.Array", augment: Augment) -> "jax.Array":
        """Gathers and augments images in one step."""
        from jaxmia.data.augment import gather_augmented  # imports JAX, which most commands do without

        return gather_augmented(key, pool, index, crop=augment.crop, flip=augment.flip, dihedral=augment.dihedral)

    def view(self, samples: "jax.Array", view: View) -> "jax.Array":
        """Turns, mirrors and shifts images."""
        from jaxmia.data.augment import apply_view

        return apply_view(samples, view)

    def query_views(
        self,
        symmetries: Sequence[QueryView],
        shift: int | Literal["auto"],
        augment: Augment,
        shape: tuple[int, ...],
    ) -> tuple[View, ...]:
        """Views as in `jaxmia.data.views.query_views`."""
        return query_views(symmetries, shift, augment, (shape[0], shape[1]))

    def check_augment(self, augment: Augment, shape: tuple[int, ...], field: str = "shadow.augment") -> None:
        """Checks that a crop leaves something of an image, and that images that are turned are square."""
        height, width = shape[:2]
        if augment.crop >= max(height, width):
            raise InputError(
                f"{field}: crop: {augment.crop} must be less than the side of the images, which are {height} x {width}"
            )
        if augment.dihedral and height != width:
            raise InputError(f"{field}: images are {height} x {width}; dihedral needs square ones")

    def check_views(self, symmetries: Sequence[str], shape: tuple[int, ...]) -> None:
        """Checks that images are square if height and width are exchanged."""
        height, width = shape[:2]
        turned = [name for name in symmetries if name in _SQUARE]
        if turned and height != width:
            raise InputError(f"query.views: images are {height} x {width}; {turned[0]} needs square ones")


class Rows:
    """Rows of features or token ids, which have no symmetries: they are not augmented, and have a single view."""

    def __init__(self, name: str, columns: str, standard: tuple[float, float] | None) -> None:
        self.name, self.axes, self.columns, self.standard = name, f"[{columns[:-1]}]", columns, standard

    def batch(self, key: "jax.Array", pool: "jax.Array", index: "jax.Array", augment: Augment) -> "jax.Array":
        """Gathers rows."""
        del key, augment
        return pool[index]

    def view(self, samples: "jax.Array", view: View) -> "jax.Array":
        """Returns the rows; `check_views` has rejected every view but the identity."""
        del view
        return samples

    def query_views(
        self,
        symmetries: Sequence[QueryView],
        shift: int | Literal["auto"],
        augment: Augment,
        shape: tuple[int, ...],
    ) -> tuple[View, ...]:
        """Returns the identity, and rejects all other views."""
        del augment
        self.check_views(symmetries, shape)
        if shift not in (0, "auto"):
            raise InputError(f"query.shift: {shift}: {self.name} cannot be shifted, allowed are auto and 0")
        return (View(),)

    def check_augment(self, augment: Augment, shape: tuple[int, ...], field: str = "shadow.augment") -> None:
        """Rejects every augmentation."""
        del shape
        if augment != Augment():
            raise InputError(f"{field}: {self.name} cannot be augmented; leave out crop, flip and dihedral")

    def check_views(self, symmetries: Sequence[str], shape: tuple[int, ...]) -> None:
        """Rejects every symmetry but the identity."""
        del shape
        foreign = [name for name in symmetries if name not in ("auto", "identity")]
        if foreign:
            raise InputError(
                f"query.views: {foreign[0]}: {self.name} have no symmetries, allowed are auto and identity"
            )


IMAGES = Images()
FEATURES = Rows("rows of features", "features", (0.0, 1.0))
TOKENS = Rows("sequences of token ids", "positions", None)


def kind_of(samples: "np.ndarray | jax.Array | jax.ShapeDtypeStruct") -> Kind:
    """Kind of the samples of a pool or a batch.

    >>> kind_of(np.zeros((100, 32, 32, 3), np.uint8)).name
    'images'
    >>> kind_of(np.zeros((100, 446), np.float32)).name
    'rows of features'
    """
    if samples.ndim == 4:
        return IMAGES
    return TOKENS if samples.dtype == TOKEN_TYPE else FEATURES


def as_stored(samples: Shaped[np.ndarray, "*axes"]) -> Shaped[np.ndarray, "*axes"]:
    """Converts samples to the type in which devices hold them: images to uint8 where that is exact, float64 to float32.

    Training gathers and augments them on the device, where uint8 takes a quarter of the memory.
    """
    if samples.dtype == np.float64:
        samples = samples.astype(np.float32)
    if kind_of(samples) is not IMAGES or samples.dtype == np.uint8:
        return samples
    levels = np.empty(samples.shape, np.uint8)
    for start in range(0, len(samples), _SAMPLES_AT_ONCE):
        part = samples[start : start + _SAMPLES_AT_ONCE]
        level = np.rint(np.clip(part, 0, 1) * np.float32(255)).astype(np.uint8)
        if not np.array_equal(as_floats(level), part):
            return samples
        levels[start : start + _SAMPLES_AT_ONCE] = level
    return levels


def as_floats(images: Real[np.ndarray, "*axes"]) -> Float[np.ndarray, "*axes"]:
    """Converts images to floats in [0, 1]: uint8 becomes float32, and floats stay as they are."""
    return images / np.float32(255) if images.dtype == np.uint8 else images
