"""Trains models of many recipes together: what may differ inside one program does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from jaxmia.config import Recipe
from jaxmia.data.augment import View
from jaxmia.data.masks import Masks
from jaxmia.training.batches import Batches
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.optimizer import Hyper
from jaxmia.training.plan import Plan
from jaxmia.training.query import query
from jaxmia.training.trainer import State

_STEPS_A_CALL = 32
"""Where many steps run in one call. Steps beyond the last change nothing, so that all calls have one shape."""

FREE = ("epochs", "warmup_epochs", "learning_rate", "weight_decay", "label_smoothing")
"""What may differ between the models of one program, as long as the warm-up is the same share of the epochs."""


@dataclass(frozen=True)
class Outcome:
    """What the models of one recipe say of the whole pool.

    Attributes:
        phi: Logit margins of the image as it is, in nats, float32 `[model, sample]`.
        correct: Whether the predicted class is right, bool `[model, sample]`.
    """

    phi: np.ndarray
    correct: np.ndarray


@dataclass(frozen=True)
class Lane:
    """One model of an ensemble: the number of its recipe, and its own, which decides on mask, weights and orders."""

    recipe: int
    model: int


def programs(recipes: Sequence[Recipe]) -> list[list[int]]:
    """The recipes (their places) by the program that trains them; in each, those of most epochs come first."""
    groups: dict[str, list[int]] = {}
    for place, recipe in enumerate(recipes):
        groups.setdefault(recipe.model_dump_json(exclude=set(FREE)), []).append(place)
    return [sorted(group, key=lambda place: -recipes[place].epochs) for group in groups.values()]


def lanes_of(recipes: Sequence[int], models: int, plan: Plan) -> list[list[Lane]]:
    """Every model of every recipe in chunks of one size, a multiple of the devices; the last repeats its last model."""
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
    """Trains recipes of one program and queries them; yields each recipe (its place) once all its models are done.

    Model `i` of a recipe is the shadow `i` that a run of that recipe would train.

    Args:
        ensemble: Holds the pool and the trainer of any of the recipes.
        recipes: All that there are.
        chunks: Which of them to train, as `lanes_of` gives them.
        masks: Who trains on whom; their seed is that of orders too.
        query_batch: Images a step of the query.
        on_images: Told of the chunk and the number of images that a call has trained on, over all models.
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
    """Images that the training of a chunk shows, over all its models."""
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
    size, count = ensemble.trainer.recipe.batch_size, _steps_a_call(ensemble)
    before: jax.Array | None = None
    for first in range(0, _steps(ensemble, total), count):
        state, metrics = ensemble.run(state, hyper, keys, batches.block(first, count), first, total)
        if before is not None:
            before.block_until_ready()  # one call waits behind the one that runs, and no more
        before = metrics["loss"]
        on_images(chunk, count * size * len(chunk))
    return state


def _batches(
    ensemble: Ensemble, recipes: Sequence[Recipe], chunk: Sequence[Lane], masks: Masks
) -> tuple[Batches, np.ndarray]:
    """The batches of a chunk, and how many of them each model takes, int32 `[model]`."""
    models, epochs = [lane.model for lane in chunk], np.array([recipes[lane.recipe].epochs for lane in chunk])
    one = Batches(masks.seed, models, masks(models), 1, ensemble.trainer.recipe.batch_size)
    return one, (epochs * one.total).astype(np.int32)


def _steps(ensemble: Ensemble, total: np.ndarray) -> int:
    """Steps until the last model is done, in whole calls."""
    count = _steps_a_call(ensemble)
    return -(-int(total.max()) // count) * count


def _steps_a_call(ensemble: Ensemble) -> int:
    return _STEPS_A_CALL if ensemble.programs.steps_in_one_call else 1
