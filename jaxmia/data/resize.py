"""Antialiased bilinear resizing as a product with two small matrices."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Real


def resize_matrix(size_in: int, size_out: int) -> Float32[np.ndarray, "size_out size_in"]:
    """Weights of bilinear resizing along one axis; each row sums to 1.

    The weights form a triangle around the centre of each output pixel. Its half-width is one input pixel when enlarging
    and one *output* pixel when shrinking, which is the antialiasing. At the border the triangle is truncated and
    renormalised. This matches `torch.nn.functional.interpolate(mode="bilinear", antialias=True, align_corners=False)`
    and therefore torchvision's `Resize`.

    Args:
        size_in: Number of pixels before resizing.
        size_out: Number of pixels after resizing.

    >>> resize_matrix(4, 2)
    array([[0.429, 0.429, 0.143, 0.   ],
           [0.   , 0.143, 0.429, 0.429]], dtype=float32)
    """
    scale = size_in / size_out
    centre = (np.arange(size_out)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(size_in) + 0.5 - centre) / max(scale, 1)
    weight = np.maximum(1 - distance, 0)
    return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width after torchvision's `Resize(size)`: the shorter side becomes `size`, keeping the aspect.

    >>> resized_shape(28, 32, 14)
    (14, 16)
    """
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def resize(
    images: Real[jax.Array | np.ndarray, "sample height width channel"], size: int
) -> Float32[jax.Array, "sample rows columns channel"]:
    """Resizes images as torchvision's `Resize(size)` does, in float32 whatever the device's default precision.

    Args:
        images: Images, uint8 in [0, 255] or floats in [0, 1].
        size: Length in pixels of the shorter side after resizing.

    Returns:
        Images in [0, 1], never rounded to uint8.
    """
    height, width = resized_shape(images.shape[1], images.shape[2], size)
    pixels = jnp.asarray(images, jnp.float32) / (255 if images.dtype == jnp.uint8 else 1)
    rows, columns = resize_matrix(images.shape[1], height), resize_matrix(images.shape[2], width)
    return jnp.einsum("ih,jw,nhwc->nijc", rows, columns, pixels, precision="highest")
