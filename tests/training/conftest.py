import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from jaxmia.config import Augment, Recipe
from jaxmia.data.masks import Masks, membership_masks
from jaxmia.data.pool import Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.data.views import views
from jaxmia.models import Compute, Network
from jaxmia.training.batches import Batches
from jaxmia.training.chunk import ShadowTrainer
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.optimizer import hyper_of
from jaxmia.training.plan import Plan, plan_of
from jaxmia.training.trainer import State, Trainer


@pytest.fixture(autouse=True)
def nothing_is_promoted_unasked(strict_promotion: None) -> None:
    """Holds for every test here."""


RECIPE = Recipe(
    architecture="cnn",
    width=3,
    epochs=3,
    batch_size=6,
    learning_rate=0.05,
    label_smoothing=0.1,
    augment=Augment(crop=1, flip=True),
    precision="float32",
)


def make_trainer(**changes: Any) -> Trainer:
    """A trainer of the small recipe with `changes`; the same object for the same arguments."""
    return _made_trainer(tuple(changes.items()))


def plan(conv: str = "unrolled", width: int = 1) -> Plan:
    """On the first device."""
    return plan_of(width, conv, tuple(jax.local_devices()[:1]))


@functools.cache
def _made_trainer(changes: tuple[tuple[str, Any], ...]) -> Trainer:
    recipe = RECIPE.model_copy(update=dict(changes))
    network = Network(recipe.architecture, (6, 6, 2), 3, recipe.width)
    compute = Compute(jax.numpy.dtype(recipe.precision))
    return Trainer(network, recipe, Preprocessing(None, (0.5,), (0.25, 0.3)), compute)


@pytest.fixture(scope="session")
def ensemble_of(pool: Pool) -> Callable[..., Ensemble]:
    """The ensemble of a trainer on the shared pool, made once, so that its programs are compiled once."""

    @functools.cache
    def make(trainer: Trainer, conv: str = "unrolled") -> Ensemble:
        assert pool.images is not None
        return Ensemble(trainer, plan(conv), 11, pool.images, pool.labels)

    return make


@pytest.fixture
def train(pool: Pool, ensemble_of: Callable[..., Ensemble]) -> Callable[..., State]:
    """Trains models of the shared pool for a few steps, as `Ensemble` does it, and returns their state."""

    def run(trainer: Trainer, models: list[int], steps: int = 4, first: int = 0, conv: str = "unrolled") -> State:
        ensemble = ensemble_of(trainer, conv)
        batches = made_batches(trainer, models, len(pool))
        hyper = stacked_hyper(trainer, len(models))
        state, _ = ensemble.run(
            ensemble.init(models), hyper, ensemble.keys(models), batches.block(first, steps), first, batches.total
        )
        return jax.device_get(state)

    return run


def shadow_trainer(
    trainer: Trainer, plan: Plan, images: np.ndarray, labels: np.ndarray, **options: Any
) -> ShadowTrainer:
    """Trains shadows of seed 11 on these images, and shows them as they are and mirrored."""
    ensemble, masks = Ensemble(trainer, plan, 11, images, labels), Masks.random(11, len(images))
    return ShadowTrainer(ensemble, masks, **{"views": views(("identity", "hflip")), "query_batch": 16, **options})


def made_batches(trainer: Trainer, models: list[int], samples: int) -> Batches:
    mask = membership_masks(11, models, samples)
    return Batches(11, models, mask, trainer.recipe.epochs, trainer.recipe.batch_size)


def stacked_hyper(trainer: Trainer, count: int) -> Any:
    return jax.tree.map(lambda value: np.full(count, value, np.float32), hyper_of(trainer.recipe))


def take(state: State, position: int) -> State:
    return jax.tree.map(lambda value: value[position : position + 1], state)


def differences(one: State, other: State) -> list[float]:
    """Largest absolute difference in each array."""
    flat = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return [float(np.max(np.abs(np.float64(left) - np.float64(right)), initial=0)) for left, right in flat]
