"""All that decides what a shadow model is, beside its number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from jaxmia.config import EnsembleConfig, Recipe
from jaxmia.data.augment import View
from jaxmia.data.masks import Masks
from jaxmia.data.pool import Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.errors import InputError
from jaxmia.provenance import digest
from jaxmia.training.autotune import make_plan
from jaxmia.training.chunk import ShadowTrainer
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.plan import Plan
from jaxmia.training.trainer import Trainer, make_trainer


@dataclass(frozen=True)
class ShadowSetup:
    """A recipe, the samples it trains on, and what trained models are asked about them.

    The Python API, the pipeline, asking kept models again and the search for a recipe all train by it, so that one seed
    gives the same shadows in each. `shadow_setup` makes it of a pool.

    Attributes:
        recipe: How each model is trained.
        images: The pool at the size that models see, `[sample, height, width, channel]`.
        labels: int32 `[sample]`.
        classes: Number of classes.
        preprocessing: Pixels to what a network sees.
        masks: Who trains on whom.
        views: How each image is shown in queries.
        query_batch: Images a step of a query.
        pool_digest: Tells the pool, as it was before resizing, from others.
    """

    recipe: Recipe
    images: np.ndarray
    labels: np.ndarray
    classes: int
    preprocessing: Preprocessing
    masks: Masks
    views: tuple[View, ...]
    query_batch: int
    pool_digest: str

    @cached_property
    def trainer(self) -> Trainer:
        """How one model trains.

        Raises:
            InputError: As `make_trainer`.
        """
        height, width, channels = self.images.shape[1:]
        symmetries = [view.symmetry for view in self.views]
        return make_trainer(self.recipe, (height, width, channels), self.classes, self.preprocessing, symmetries)

    def with_recipe(self, recipe: Recipe) -> "ShadowSetup":
        """The same samples and queries, another recipe."""
        return replace(self, recipe=recipe)

    def plan(self, section: EnsembleConfig, count: int) -> Plan:
        """How `count` models are trained together; what the section leaves open is measured.

        Raises:
            InputError: As `make_plan`.
        """
        return make_plan(section, self.trainer, count, len(self.labels))

    def ensemble(self, plan: Plan) -> Ensemble:
        """Models that train together by this plan, with the pool on their devices."""
        return Ensemble(self.trainer, plan, self.masks.seed, self.images, self.labels)

    def shadow_trainer(self, plan: Plan) -> ShadowTrainer:
        """Trains and queries chunks of models by this plan."""
        return ShadowTrainer(self.ensemble(plan), self.masks, self.views, self.query_batch)

    def cache_key(self) -> dict[str, Any]:
        """What a model's scores depend on beside its number, as plain JSON named by the fields of a configuration.

        Precision is the one that `auto` comes to on this device, so that models of devices that differ in it are not
        taken for each other.
        """
        recipe = self.recipe.model_dump(mode="json", exclude={"count"})
        seen = self.preprocessing
        return {
            "shadow": {**recipe, "precision": str(self.trainer.compute.dtype)},
            "challenge": {"image_size": seen.size, "mean": list(seen.mean), "std": list(seen.std)},
            "classes": self.classes,
            "views": [str(view) for view in self.views],
            "seed": self.masks.seed,
            "pool": self.pool_digest,
        }


def shadow_setup(
    pool: Pool,
    recipe: Recipe,
    preprocessing: Preprocessing,
    classes: int,
    *,
    views: Sequence[View],
    seed: int,
    query_batch: int = 512,
) -> ShadowSetup:
    """Prepares a pool for shadow models of a recipe.

    Args:
        pool: With images.
        recipe: How each model is trained.
        preprocessing: Pixels to what a network sees, the target's own.
        classes: Number of classes, the target's own.
        views: How each image is shown in queries; the first is the identity.
        seed: Seed of masks, initial weights, orders and augmentation.
        query_batch: Images a step of a query.

    Raises:
        InputError: The pool has no images, or a label is no class of the target.
    """
    images = pool.images
    if images is None:
        raise InputError("pool: holds no images to train on")
    if len(pool) and pool.labels.max() >= classes:
        raise InputError(f"pool: label {pool.labels.max()} is no class of the target, which has {classes}, from 0 on")
    return ShadowSetup(
        recipe=recipe,
        images=preprocessing.resized(images),
        labels=pool.labels,
        classes=classes,
        preprocessing=preprocessing,
        masks=Masks.random(seed, len(pool)),
        views=tuple(views),
        query_batch=query_batch,
        pool_digest=digest(images, pool.labels),
    )
