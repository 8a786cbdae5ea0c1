"""Everything that determines a shadow model, apart from its number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from jaxmia.config import EnsembleConfig, Recipe
from jaxmia.data.kinds import as_stored, kind_of
from jaxmia.data.masks import Masks
from jaxmia.data.pool import Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.data.views import View
from jaxmia.errors import InputError
from jaxmia.models import TrainableNetwork
from jaxmia.provenance import digest
from jaxmia.training.autotune import make_plan
from jaxmia.training.chunk import ShadowTrainer
from jaxmia.training.ensemble import Ensemble, ForeignNetwork, make_ensemble
from jaxmia.training.plan import Plan
from jaxmia.training.trainer import Trainer, make_trainer


@dataclass(frozen=True)
class ShadowSetup:
    """A recipe, the samples to train on, and how trained models are queried on them.

    The Python API, the pipeline, queries of kept models and the search for a recipe all use it, so that one seed gives
    the same shadow models in each. `shadow_setup` creates it from a pool.

    Attributes:
        recipe: Recipe by which each model is trained.
        images: Samples of the pool as the devices hold them: images after resizing, uint8 where that is exact.
        labels: Labels, int32 `[sample]`.
        classes: Number of classes.
        preprocessing: Preprocessing of images.
        masks: Membership masks.
        views: Views in which each image is queried.
        query_batch: Number of images in a query step.
        pool_digest: Digest of the pool before resizing.
        network: Network of the recipe's architecture, if the name alone does not determine it.
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
    network: TrainableNetwork | None = None

    @cached_property
    def trainer(self) -> Trainer:
        """Trainer of one model.

        Raises:
            InputError: `make_trainer` rejects the setup, or another backend than the recipe's trains the network.
        """
        self._refuse_other_backend()
        symmetries = [view.symmetry for view in self.views]
        shape, dtype = self.images.shape[1:], self.images.dtype
        return make_trainer(self.recipe, shape, self.classes, self.preprocessing, symmetries, dtype, self.network)

    def _refuse_other_backend(self) -> None:
        backend = "torch" if isinstance(self.network, ForeignNetwork) else "jax"
        if self.recipe.backend not in ("auto", backend):
            raise InputError(
                f"shadow.backend: {self.recipe.backend}: the network is one that {backend} trains; "
                "bridge.shadows.shadow_network gives that of a recipe"
            )

    def with_recipe(self, recipe: Recipe) -> "ShadowSetup":
        """Returns the same setup with another recipe, and with its own network if the architecture is another."""
        same = recipe.architecture == self.recipe.architecture
        return replace(self, recipe=recipe, network=self.network if same else None)

    def plan(self, section: EnsembleConfig, count: int) -> Plan:
        """Plans how `count` models are trained together; what the section sets to `auto` is measured.

        Raises:
            InputError: `make_plan` rejects the section.
        """
        return make_plan(section, self.trainer, count, len(self.labels))

    def ensemble(self, plan: Plan) -> Ensemble:
        """Creates the ensemble that trains by this plan, with the pool on its devices."""
        return make_ensemble(self.trainer, plan, self.masks.seed, self.images, self.labels)

    def shadow_trainer(self, plan: Plan) -> ShadowTrainer:
        """Creates the trainer of chunks of models for this plan."""
        return ShadowTrainer(self.ensemble(plan), self.masks, self.views, self.query_batch)

    def cache_key(self) -> dict[str, Any]:
        """Everything but its number that a model's margins depend on, as JSON named like configuration fields.

        The precision is the one that `auto` selects on this device, so that models trained in different precisions are
        not mixed.
        """
        recipe = self.recipe.model_dump(mode="json", exclude={"backend", "count", "rounds"})
        mean, std = self.preprocessing.statistics(kind_of(self.images))
        return {
            "shadow": {**recipe, "precision": str(self.trainer.compute.dtype)},
            "challenge": {"image_size": self.preprocessing.size, "mean": list(mean), "std": list(std)},
            **({"network": self.network.describe()} if self.network else {}),
            "classes": self.classes,
            "views": [str(view) for view in self.views],
            "seed": self.masks.seed,
            **({} if self.masks.free.all() else {"told": digest(self.masks.fixed)}),
            **({} if self.masks.chance is None else {"chance": digest(self.masks.chance)}),
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
    network: TrainableNetwork | None = None,
) -> ShadowSetup:
    """Prepares a pool for shadow models of a recipe.

    Args:
        pool: Samples with images.
        recipe: Recipe by which each model is trained.
        preprocessing: Preprocessing of images; use the target's own.
        classes: Number of classes of the target.
        views: Views in which each image is queried; the first is the identity.
        seed: Seed of masks, initial weights, batch order and augmentation.
        query_batch: Number of images in a query step.
        network: Network to train in place of the recipe's.

    Raises:
        InputError: The pool has no images, or a label is not a class of the target.
    """
    images = as_stored(pool.images_to("train on"))
    if len(pool) and pool.labels.max() >= classes:
        raise InputError(
            f"pool: label {pool.labels.max()} is not a class of the target, which has {classes}, from 0 on"
        )
    return ShadowSetup(
        recipe=recipe,
        images=preprocessing.resized(images),
        labels=pool.labels,
        classes=classes,
        preprocessing=preprocessing,
        masks=Masks.knowing(seed, pool.membership, recipe.known),
        views=tuple(views),
        query_batch=query_batch,
        pool_digest=pool.digest(),
        network=network,
    )
