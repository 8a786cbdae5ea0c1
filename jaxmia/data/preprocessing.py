"""Preprocessing of images for a network: resizing and normalisation."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxmia.data.resize import resize, resized_shape
from jaxmia.errors import InputError

_IMAGES_AT_ONCE = 1024


@dataclass(frozen=True)
class Preprocessing:
    """Resizes images, then normalises each channel as `(pixel - mean) / std` for pixels in [0, 1].

    Attributes:
        size: Length in pixels of the shorter side after resizing, as in torchvision's `Resize(size)`; None keeps the
            image's size.
        mean: Mean of each channel; a single number applies to all channels.
        std: Standard deviation of each channel; a single number applies to all channels.
    """

    size: int | None = None
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def check(self, channels: int) -> None:
        """Checks that `mean` and `std` match the number of channels of an image.

        Raises:
            InputError: One of them has neither 1 nor `channels` values.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise InputError(
                    f"{name} has {len(values)} values, allowed are 1 or one for each of {channels} channels"
                )

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
        """Normalises uint8 in [0, 255] or floats in [0, 1], `[..., channel]`, in float32; returns `dtype`."""
        pixels = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images.astype(jnp.float32)
        return ((pixels - jnp.asarray(self.mean)) / jnp.asarray(self.std)).astype(dtype)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Resizes and normalises images `[sample, height, width, channel]`, uint8 in [0, 255] or floats in [0, 1]."""
        pixels = images if self.size is None or self._fits(images) else resize(images, self.size)
        return self.normalised(pixels, jnp.dtype(jnp.float32))

    def _fits(self, images: np.ndarray | jax.Array) -> bool:
        height, width = images.shape[1:3]
        return self.size is None or (height, width) == resized_shape(height, width, self.size)
