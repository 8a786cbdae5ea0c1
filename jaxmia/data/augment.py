"""Training augmentation, and the application of views.

Augmentation maps the coordinates of output pixels to those of input pixels, so that a batch is augmented by the same
gather that reads it from the pool.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Integer, Shaped

from jaxmia.data.views import View

# Each symmetry of the square as (transpose, flip rows, flip columns), applied in this order.
_SYMMETRY: dict[str, tuple[bool, bool, bool]] = {
    "identity": (False, False, False),
    "hflip": (False, False, True),
    "vflip": (False, True, False),
    "rot180": (False, True, True),
    "transpose": (True, False, False),
    "rot90": (True, True, False),
    "rot270": (True, False, True),
    "antitranspose": (True, True, True),
}


def apply_view(
    images: Shaped[jax.Array, "sample height width channel"], view: View
) -> Shaped[jax.Array, "sample rows columns channel"]:
    """Applies a view to images."""
    transpose, flip_rows, flip_columns = _SYMMETRY[view.symmetry]
    if transpose:
        images = images.swapaxes(1, 2)
    if flip_rows:
        images = images[:, ::-1]
    if flip_columns:
        images = images[:, :, ::-1]
    if view.down or view.right:
        edge = max(abs(view.down), abs(view.right))
        height, width = images.shape[1:3]
        padded = jnp.pad(images, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
        top, left = edge - view.down, edge - view.right
        images = padded[:, top : top + height, left : left + width]
    return images


def gather_augmented(
    key: jax.Array,
    pool: Shaped[jax.Array, "sample height width channel"],
    index: Integer[jax.Array, " batch"],
    *,
    crop: int,
    flip: bool,
    dihedral: bool,
) -> Shaped[jax.Array, "batch height width channel"]:
    """Gathers a batch from the pool and augments each sample independently.

    Args:
        key: Random key.
        pool: Images of the pool.
        index: Indices of the samples in the batch.
        crop: Largest random shift in each direction, in pixels, with the border filled with black; equal to a random
            crop after zero padding by as much.
        flip: Flip horizontally with probability 1/2.
        dihedral: Apply one of the eight symmetries of the square, each equally likely; requires square images.

    Returns:
        Augmented images, in the pool's dtype.
    """
    height, width = pool.shape[1:3]
    batch = index.shape[0]
    if not (crop or flip or dihedral):
        return pool[index]
    rows = jnp.broadcast_to(jnp.arange(height)[:, None], (batch, height, width))
    columns = jnp.broadcast_to(jnp.arange(width)[None, :], (batch, height, width))
    crop_key, flip_key, dihedral_key = jax.random.split(key, 3)
    if crop:
        offset = jax.random.randint(crop_key, (batch, 2), -crop, crop + 1)
        rows = rows + offset[:, 0, None, None]
        columns = columns + offset[:, 1, None, None]
    if flip or dihedral:
        chance = jax.random.bernoulli(flip_key, shape=(batch, 1, 1))
        columns = jnp.where(chance, width - 1 - columns, columns)
    if dihedral:
        chance = jax.random.bernoulli(dihedral_key, shape=(2, batch, 1, 1))
        rows = jnp.where(chance[0], height - 1 - rows, rows)
        rows, columns = jnp.where(chance[1], columns, rows), jnp.where(chance[1], rows, columns)
    return pool.at[index[:, None, None], rows, columns].get(mode="fill", fill_value=0, wrap_negative_indices=False)
