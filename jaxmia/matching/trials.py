"""Trains models of many recipes, in one program if the recipes differ only in its inputs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from jaxmia.config import Recipe
from jaxmia.data.masks import Masks
from jaxmia.data.views import View
from jaxmia.training.batches import Batches
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.optimizer import Hyper
from jaxmia.training.pace import Pace
from jaxmia.training.plan import Plan
from jaxmia.training.query import query
from jaxmia.training.trainer import State

_STEPS_A_CALL = 32
"""Most steps in one call. Steps beyond the last change nothing, so where their number is static all calls have it."""

FREE = ("epochs", "warmup_epochs", "learning_rate", "weight_decay", "label_smoothing")
"""Fields in which models of one program may differ, as long as the warm-up is the same fraction of the epochs."""


@dataclass(frozen=True)
class Outcome:
    """Results of the models of one recipe on the whole pool.

    Attributes:
        phi: Logit margins in the identity view in nats, float32 `[model, sample]`.
        correct: Whether the prediction is correct, bool `[model, sample]`.
    """

    phi: np.ndarray
    correct: np.ndarray


@dataclass(frozen=True)
class Lane:
    """A model of an ensemble: the index of its recipe and its own number, which determines mask, weights and orders."""

    recipe: int
    model: int


def programs(recipes: Sequence[Recipe]) -> list[list[int]]:
    """Groups recipes, given by index, that one program can train; in each group those with most epochs come first."""
    groups: dict[str, list[int]] = {}
    for place, recipe in enumerate(recipes):
        groups.setdefault(recipe.model_dump_json(exclude=set(FREE)), []).append(place)
    return [sorted(group, key=lambda place: -recipes[place].epochs) for group in groups.values()]


def lanes_of(recipes: Sequence[int], models: int, plan: Plan) -> list[list[Lane]]:
    """Splits the models of all recipes into chunks of one size, a multiple of the devices; the last one is padded."""
    lanes = [Lane(recipe, model) for recipe in recipes for model in range(models)]
    chunks = -(-len(lanes) // plan.width)
    size = -(-len(lanes) // chunks)
    size += -size % len(plan.devices)
    lanes += [lanes[-1]] * (-len(lanes) % size)
    return [lanes[start : start + size] for start in range(0, len(lanes), size)]


def train_recipes(
    ensemble: Ensemble,
    recipes: Sequence[Recipe],
    chunks: Sequence[Sequence[Lane]],
    *,
    masks: Masks,
    query_batch: int = 512,
    on_images: Callable[[Sequence[Lane], int], None] = lambda lanes, images: None,
) -> Iterator[tuple[int, Outcome]]:
    """Trains and queries recipes of one program; yields each recipe's index and outcome once its models are done.

    Model `i` of a recipe equals the shadow model `i` that a run with that recipe would train.

    Args:
        ensemble: Ensemble with the pool and the trainer of any of the recipes.
        recipes: All recipes.
        chunks: Chunks of models to train, from `lanes_of`.
        masks: Membership masks; their seed also determines the batch order.
        query_batch: Number of images in a query step.
        on_images: Called with the chunk and the number of images that a call trained on, over all models.
    """
    done: dict[int, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    wanted = {(lane.recipe, lane.model) for chunk in chunks for lane in chunk}
    models = {recipe: {model for of, model in wanted if of == recipe} for recipe, _ in wanted}
    for chunk in chunks:
        state = _train(ensemble, recipes, chunk, masks, on_images)
        phi, correct = query(ensemble, state, (View(),), query_batch)
        for place, lane in enumerate(chunk):
            done.setdefault(lane.recipe, {})[lane.model] = (phi[place, 0], correct[place])
        for recipe in [recipe for recipe, found in done.items() if set(found) == models[recipe]]:
            found = done.pop(recipe)
            yield (
                recipe,
                Outcome(*(np.stack([found[model][part] for model in sorted(found)]) for part in (0, 1))),
            )


def images_of(ensemble: Ensemble, recipes: Sequence[Recipe], chunk: Sequence[Lane], masks: Masks) -> int:
    """Number of training images of a chunk, over all its models."""
    size = ensemble.trainer.recipe.batch_size
    return _steps(ensemble, _batches(ensemble, recipes, chunk, masks)[1]) * size * len(chunk)


def _train(
    ensemble: Ensemble,
    recipes: Sequence[Recipe],
    chunk: Sequence[Lane],
    masks: Masks,
    on_images: Callable[[Sequence[Lane], int], None],
) -> State:
    models, own = [lane.model for lane in chunk], [recipes[lane.recipe] for lane in chunk]
    hyper = Hyper(
        *(np.array([getattr(recipe, name) for recipe in own], np.float32) for name in Hyper._fields)  # type: ignore[arg-type]
    )
    batches, total = _batches(ensemble, recipes, chunk, masks)
    state, keys = ensemble.init(models), ensemble.keys(models)
    size, steps, pace = ensemble.trainer.recipe.batch_size, _steps(ensemble, total), Pace(ensemble, _STEPS_A_CALL)
    before: jax.Array | None = None
    first = 0
    while first < steps:
        count = pace.choose(steps - first)
        state, metrics = ensemble.run(state, hyper, keys, batches.block(first, count), first, total)
        if before is not None:
            before.block_until_ready()  # so that at most one call is queued behind the running one
        before = metrics["loss"]
        on_images(chunk, count * size * len(chunk))
        first += count
    return state


def _batches(
    ensemble: Ensemble, recipes: Sequence[Recipe], chunk: Sequence[Lane], masks: Masks
) -> tuple[Batches, np.ndarray]:
    """Batches of a chunk, and the number of steps of each model, int32 `[model]`."""
    models, epochs = [lane.model for lane in chunk], np.array([recipes[lane.recipe].epochs for lane in chunk])
    one = Batches(masks.seed, models, masks(models), 1, ensemble.trainer.recipe.batch_size)
    return one, (epochs * one.total).astype(np.int32)


def _steps(ensemble: Ensemble, total: np.ndarray) -> int:
    """Number of steps until the last model has finished, in whole calls where their number of steps is static."""
    whole = _STEPS_A_CALL if ensemble.steps_in_one_call and ensemble.steps_are_static else 1
    return -(-int(total.max()) // whole) * whole
