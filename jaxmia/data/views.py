"""Views of a query: fixed transformations of images, and which of them a training augmentation suggests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from jaxmia.config import Augment, Dihedral, QueryView

DIHEDRAL: tuple[Dihedral, ...] = get_args(Dihedral)


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
