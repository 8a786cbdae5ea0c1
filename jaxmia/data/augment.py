"""Training augmentation and query views.

Augmentation maps the coordinates of output pixels to those of input pixels, so that a batch is augmented by the same
gather that reads it from the pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Integer, Shaped

from jaxmia.config import Augment, Dihedral, QueryView

DIHEDRAL: tuple[Dihedral, ...] = get_args(Dihedral)

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


@dataclass(frozen=True)
class View:
    """A fixed transformation of every image: a symmetry of the square, then a shift.

    Attributes:
        symmetry: One of the eight symmetries of the square; `rot90` is counter-clockwise.
        down: Shift downwards in pixels; pixels shifted out are lost, and the border is filled with black.
        right: Shift to the right in pixels.
    """

    symmetry: Dihedral = "identity"
    down: int = 0
    right: int = 0

    def __str__(self) -> str:
        return self.symmetry if self.down == self.right == 0 else f"{self.symmetry}{self.down:+d}{self.right:+d}"


def views(symmetries: tuple[Dihedral, ...], shift: int = 0) -> tuple[View, ...]:
    """Views of a query: each symmetry and, if `shift` > 0, each also shifted by that much in the eight directions.

    >>> [str(view) for view in views(("identity", "hflip"), shift=2)[:4]]
    ['identity', 'hflip', 'identity-2-2', 'hflip-2-2']
    """
    moves = [(0, 0)]
    if shift:
        moves += [(down, right) for down in (-shift, 0, shift) for right in (-shift, 0, shift) if down or right]
    return tuple(View(symmetry, down, right) for down, right in moves for symmetry in symmetries)


def query_views(
    symmetries: Sequence[QueryView], shift: int | Literal["auto"], augment: Augment, shape: tuple[int, int]
) -> tuple[View, ...]:
    """Views of a query, of which `auto` derives symmetries and shift from the training augmentation.

    Members stand out most in the views in which they were trained on, and averaging over these views reduces the noise
    of training. In other views they hardly stand out. Images of a single row or column get the identity only.

    Args:
        symmetries: Symmetries, or `auto` alone, as in `query.views`.
        shift: Pixels, or `auto`, as in `query.shift`.
        augment: Augmentation of the shadows' training images.
        shape: Height and width of the images.

    >>> [str(view) for view in query_views(["auto"], "auto", Augment(flip=True), (32, 32))]
    ['identity', 'hflip']
    >>> len(query_views(["auto"], "auto", Augment(crop=4, flip=True), (32, 32)))
    18
    >>> len(query_views(["auto"], "auto", Augment(crop=4, flip=True), (1, 446)))
    1
    """
    automatic = tuple(symmetries) == ("auto",)
    image = min(shape) > 1
    if shift == "auto":
        shift = 1 if automatic and image and augment.crop and not augment.dihedral else 0
    if not automatic:
        chosen: tuple[Dihedral, ...] = tuple(symmetry for symmetry in symmetries if symmetry != "auto")
    elif not image:
        chosen = ("identity",)
    elif augment.dihedral:
        chosen = DIHEDRAL
    else:
        chosen = ("identity", "hflip") if augment.flip else ("identity",)
    return views(chosen, shift)


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
