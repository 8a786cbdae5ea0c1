"""What a network sees of an image: its size, and its colours normalised."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxmia.data.resize import resize, resized_shape
from jaxmia.errors import InputError

_IMAGES_AT_ONCE = 1024


@dataclass(frozen=True)
class Preprocessing:
    """Resizes an image, then normalises each channel: `(pixel - mean) / std`, of pixels in [0, 1].

    Attributes:
        size: Length of the shorter side after resizing, as torchvision's `Resize(size)`; None keeps the image.
        mean: Of each channel; one number serves all channels.
        std: Of each channel; one number serves all channels.
    """

    size: int | None = None
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def check(self, channels: int) -> None:
        """Refuses a mean or std that fits no image of so many channels.

        Raises:
            InputError: There are neither one nor `channels` values.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise InputError(
                    f"{name} has {len(values)} values, allowed are 1 or one for each of {channels} channels"
                )

    def resized(self, images: np.ndarray) -> np.ndarray:
        """The pool at the size that models see, ready to be put on a device once.

        Args:
            images: uint8 in [0, 255] or floats in [0, 1], `[sample, height, width, channel]`.

        Returns:
            The same images where they have that size already, else float32 in [0, 1]: rounding to uint8 would not be
            what the target sees.
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
        """What a network sees, float32 `[sample, height, width, channel]`, of uint8 in [0, 255] or floats in [0, 1]."""
        pixels = images if self.size is None or self._fits(images) else resize(images, self.size)
        return self.normalised(pixels, jnp.dtype(jnp.float32))

    def _fits(self, images: np.ndarray | jax.Array) -> bool:
        height, width = images.shape[1:3]
        return self.size is None or (height, width) == resized_shape(height, width, self.size)
