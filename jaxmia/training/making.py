"""How one shadow trains on a given pool."""

from collections.abc import Sequence

import jax

from jaxmia.config import Shadow
from jaxmia.errors import InputError
from jaxmia.models import Compute, Network
from jaxmia.training.plan import compute_dtype
from jaxmia.training.step import Normalisation, Trainer

_SQUARE = ("antitranspose", "rot270", "rot90", "transpose")
"""Symmetries that exchange height and width."""


def make_trainer(
    recipe: Shadow,
    shape: tuple[int, int, int],
    classes: int,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    symmetries: Sequence[str] = ("identity",),
) -> Trainer:
    """The trainer of a recipe, computing in the type that suits the first device.

    Args:
        recipe: Network and training.
        shape: Height, width and channels of an image.
        classes: Number of them.
        mean: Of each channel, of pixels in [0, 1]; one number serves all channels.
        std: Of each channel.
        symmetries: How each image will be shown in queries.

    Raises:
        InputError: Images are not square, and the recipe or a symmetry would exchange height and width.
    """
    height, width, _ = shape
    if height != width and (recipe.augment.dihedral or set(_SQUARE) & set(symmetries)):
        raise InputError(
            f"images are {height} x {width}; shadow.augment.dihedral and the views {', '.join(_SQUARE)} "
            "need square ones"
        )
    return Trainer(
        Network(recipe.architecture, shape, classes, recipe.width, recipe.depth),
        recipe,
        Normalisation(mean, std),
        Compute(compute_dtype(recipe, jax.local_devices()[0])),
    )
