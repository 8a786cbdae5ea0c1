"""Preprocessing of samples for a network: resizing and normalisation."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxmia.config import ChallengeConfig
from jaxmia.data.kinds import IMAGES, Kind, kind_of
from jaxmia.data.resize import resize, resized_shape
from jaxmia.errors import InputError
from jaxmia.validation import parse_as

_IMAGES_AT_ONCE = 1024


@dataclass(frozen=True)
class Preprocessing:
    """Resizes images, then normalises each channel as `(pixel - mean) / std` for pixels in [0, 1].

    Features are normalised column by column as `(feature - mean) / std`, and token ids are left as they are.

    Attributes:
        size: Length in pixels of the shorter side after resizing, as in torchvision's `Resize(size)`; None keeps the
            image's size.
        mean: Mean of each channel or column; a single number applies to all. None is 0.5 for images and 0 for features.
        std: Standard deviation of each channel or column; a single number applies to all. None is 0.5 for images and 1
            for features.

    Raises:
        InputError: A field is not what the configuration allows as `challenge.image_size`, `mean` or `std`.
    """

    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        given = {"image_size": self.size, "mean": self.mean, "std": self.std}
        read = parse_as(ChallengeConfig, given, "preprocessing")
        for name, value in (("size", read.image_size), ("mean", read.mean), ("std", read.std)):
            object.__setattr__(self, name, value)  # a list is now a tuple, and a number a tuple of one

    def check(self, samples: np.ndarray | jax.ShapeDtypeStruct) -> None:
        """Checks that samples can be resized and normalised like this.

        Raises:
            InputError: `mean` or `std` has neither 1 nor as many values as there are channels or columns; or samples
                that are not images would be resized, or token ids normalised.
        """
        kind, channels = kind_of(samples), samples.shape[-1]
        if kind is not IMAGES and self.size is not None:
            raise InputError(f"image_size: {kind.name} cannot be resized, leave it out")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is None:
                continue
            if kind.standard is None:
                raise InputError(f"{name}: {kind.name} are not normalised, leave it out")
            if len(values) not in (1, channels):
                raise InputError(
                    f"{name} has {len(values)} values, allowed are 1 or one for each of {channels} {kind.columns}"
                )

    def statistics(self, kind: Kind) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation by which samples of a kind are normalised; empty if they are not."""
        if kind.standard is None:
            return (), ()
        mean, std = kind.standard
        return self.mean or (mean,), self.std or (std,)

    def resized(self, images: np.ndarray) -> np.ndarray:
        """Resizes a pool in batches on the host, so that it is moved to the devices only once.

        Args:
            images: Images `[sample, height, width, channel]`, uint8 in [0, 255] or floats in [0, 1].

        Returns:
            The given images if they already have that size, otherwise float32 images in [0, 1]: the target does not
            round resized images to uint8.
        """
        if self.size is None or self._fits(images):
            return images
        starts = range(0, len(images), _IMAGES_AT_ONCE)
        return np.concatenate([np.asarray(resize(images[i : i + _IMAGES_AT_ONCE], self.size)) for i in starts])

    def normalised(self, images: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Normalises a batch in float32 and returns `dtype`; uint8 images become [0, 1] first, token ids stay ids."""
        kind = kind_of(images)
        if kind.standard is None:
            return images
        mean, std = self.statistics(kind)
        whole = kind is IMAGES and images.dtype == jnp.uint8
        numbers = images.astype(jnp.float32) / 255 if whole else images.astype(jnp.float32)
        others = tuple(range(images.ndim - 1))
        mean, std = (jnp.expand_dims(jnp.asarray(values), others) for values in (mean, std))
        return ((numbers - mean) / std).astype(dtype)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Resizes and normalises a batch of samples."""
        pixels = images if self.size is None or self._fits(images) else resize(images, self.size)
        return self.normalised(pixels, jnp.dtype(jnp.float32))

    def _fits(self, images: np.ndarray | jax.Array) -> bool:
        if self.size is None or kind_of(images) is not IMAGES:
            return True  # `check` rejects samples of other kinds if there is a size
        height, width = images.shape[1:3]
        return (height, width) == resized_shape(height, width, self.size)
