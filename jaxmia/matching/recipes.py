"""Enumerates the recipes to try."""

import math
import random
from typing import Any

import numpy as np

from jaxmia.config import Augment, MatchConfig, Recipe


def recipes_to_try(space: MatchConfig, base: Recipe, side: int, seed: int) -> list[Recipe]:
    """Lists the configured recipe and combinations of the search space, drawn at random if there are too many.

    Args:
        space: Search space and number of trials.
        base: Configured recipe.
        side: Side of the images in pixels; 1 for rows, which cannot be augmented.
        seed: Seed for drawing combinations.
    """
    choices = _choices(space, base, side)
    shape = [len(values) for values in choices.values()]
    total = math.prod(shape)
    drawn = range(total) if total <= space.trials else random.Random(seed).sample(range(total), space.trials)
    tried = [base]
    for number in drawn:
        places = np.unravel_index(number, shape)
        recipe = _changed(
            base, {name: values[place] for (name, values), place in zip(choices.items(), places, strict=True)}
        )
        if recipe not in tried:
            tried.append(recipe)
    return tried


def _choices(space: MatchConfig, base: Recipe, side: int) -> dict[str, tuple[Any, ...]]:
    """Values to try for each field, in the order of the configuration."""
    decay = base.weight_decay or 5e-4
    spread: dict[str, tuple[Any, ...]] = {
        "epochs": tuple(max(1, round(base.epochs * factor)) for factor in (0.25, 0.5, 1, 2)),
        "learning_rate": tuple(float(f"{base.learning_rate * factor:.3g}") for factor in (0.1, 0.3, 1, 3)),
        "weight_decay": (0.0, decay, float(f"{5 * decay:.3g}")),
        "label_smoothing": (0.0, 0.05, 0.1, base.label_smoothing),
        "augment": (*_augmentations(side), base.augment),
        "width": (base.width,),
    }
    return {name: tuple(dict.fromkeys(getattr(space, name) or values)) for name, values in spread.items()}


def _augmentations(side: int) -> tuple[Augment, ...]:
    """Augmentations to try: none, flips, crops by 1/8 of the side, and both; none for features, which have no sides."""
    crop = side // 8
    return (
        tuple(Augment(crop=by, flip=flip) for by in (0, crop) for flip in (False, True)) if side > 1 else (Augment(),)
    )


def _changed(base: Recipe, changes: dict[str, Any]) -> Recipe:
    warmup = base.warmup_epochs * changes["epochs"] / base.epochs
    return Recipe.model_validate({**dict(base), **changes, "warmup_epochs": warmup})
