"""Trains the candidate recipes, compares them with the target, and writes the best."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmia.config import Recipe, save_config
from jaxmia.data.kinds import IMAGES, kind_of
from jaxmia.data.views import View
from jaxmia.errors import InputError
from jaxmia.evaluation.selection import std_error
from jaxmia.evaluation.unlike import MIN_PER_SIDE
from jaxmia.files import load_npz, save_npz, write_text
from jaxmia.matching.likeness import RecipeDistances, recipe_distances
from jaxmia.matching.recipes import recipes_to_try
from jaxmia.matching.trials import Lane, Outcome, images_of, lanes_of, programs, train_recipes
from jaxmia.pipeline.stages import Pipeline
from jaxmia.plots.panels import paint_distributions
from jaxmia.plots.style import draw
from jaxmia.provenance import digest, origin
from jaxmia.runs.progress import Progress
from jaxmia.runs.rundir import RunDir
from jaxmia.training.ensemble import Ensemble

logger = logging.getLogger(__name__)


_SHOWN = ("epochs", "learning_rate", "weight_decay", "label_smoothing", "augment", "width")


@dataclass(frozen=True)
class PublicMargins:
    """The target's margins and membership on the public samples.

    Attributes:
        phi: Logit margins in the identity view in nats, `[public sample]`.
        correct: Whether the target's prediction is correct, bool `[public sample]`.
        members: Whether the sample is a member, bool `[public sample]`.
    """

    phi: np.ndarray
    correct: np.ndarray
    members: np.ndarray


def match(pipeline: Pipeline) -> dict[str, Any]:
    """Finds the recipe whose shadow models resemble the target most on the public samples.

    Recipes that an earlier call trained on the same pool are not trained again. The search uses only the public
    membership labels, and only to compare margins; the choice of the recipe nevertheless depends on them.

    Args:
        pipeline: Pipeline with the challenge, the configured recipe and search space, and the run directory.

    Returns:
        Contents of `match.json`: `target` (its accuracy on members and non-members), and `trials`, the best first. Each
        trial has its `recipe`; its `energy_score` with the `std_error` over models; the distances `in`, `out` and
        `peers` that make it up; accuracies; and `gap_to_best`, the difference from the best recipe's energy score over
        the same models, with `gap_std_error`.

    Raises:
        InputError: There are too few public members or non-members, or the configuration does not match the pool.
    """
    config, pool, out = pipeline.config, pipeline.pool, pipeline.out
    target = _target(pipeline)
    images = pipeline.setup.images
    side = min(images.shape[1:3]) if kind_of(images) is IMAGES else 1
    recipes = recipes_to_try(config.match, config.shadow, side, config.seed)
    outcomes = _outcomes(pipeline, recipes)
    mask = pipeline.setup.masks(range(config.match.models))[:, pool.public]
    found = {
        place: recipe_distances(
            target.phi,
            target.members,
            outcome.phi[:, pool.public],
            mask,
            outcome.correct[:, pool.public],
        )
        for place, outcome in outcomes.items()
    }
    order = rank(found)
    best = order[0]
    if np.isnan(found[best].energy_score):
        raise InputError("match: every training diverged; try lower values in match.learning_rate")
    result = {
        "target": {
            "accuracy_in": float(target.correct[target.members].mean()),
            "accuracy_out": float(target.correct[~target.members].mean()),
        },
        "models": config.match.models,
        "trials": [
            {
                "recipe": recipes[place].model_dump(mode="json", include=set(_SHOWN)),
                **describe(found[place], found[best]),
            }
            for place in order
        ],
        "metadata": origin(),
    }
    save_config(config.model_copy(update={"shadow": recipes[best], "matched": True}), RunDir(out).matched)
    _draw(out, target, outcomes[best].phi[:, pool.public], mask)
    write_text(RunDir(out).match, json.dumps(result, indent=2) + "\n")
    return result


def rank(found: dict[int, RecipeDistances]) -> list[int]:
    """Sorts the recipes by energy score, the best first and those that diverged last."""
    return sorted(found, key=lambda place: (np.isnan(found[place].energy_score), found[place].energy_score, place))


def describe(one: RecipeDistances, best: RecipeDistances) -> dict[str, float | None]:
    """Summarises a recipe's figures relative to the best recipe as plain JSON, with None where a model diverged."""
    gap = one.energy_scores - best.energy_scores
    figures = {
        "energy_score": one.energy_score,
        "std_error": std_error(one.energy_scores),
        "in": float(one.in_.mean()),
        "out": float(one.out.mean()),
        "peers": float(one.peers.mean()),
        "gap_to_best": float(gap.mean()),
        "gap_std_error": std_error(gap),
        "accuracy_in": one.accuracy_in,
        "accuracy_out": one.accuracy_out,
    }
    return {name: value if np.isfinite(value) else None for name, value in figures.items()}


def _target(pipeline: Pipeline) -> PublicMargins:
    pool = pipeline.pool
    members = pool.membership[pool.public] == 1
    if min(members.sum(), (~members).sum()) < MIN_PER_SIDE:
        raise InputError(
            f"match: {int(members.sum())} public members and {int((~members).sum())} non-members, expected at least "
            f"{MIN_PER_SIDE} of each to compare margins on"
        )
    pipeline.query()
    stored = load_npz(RunDir(pipeline.out).target, required=("phi", "correct"))
    return PublicMargins(stored["phi"][0, pool.public].astype(np.float64), stored["correct"][pool.public], members)


def _outcomes(pipeline: Pipeline, recipes: Sequence[Recipe]) -> dict[int, Outcome]:
    """Outcomes of the recipes by their index; trains the recipes that have no stored outcome."""
    config = pipeline.config
    images = pipeline.setup.images
    for recipe in recipes:
        kind_of(images).check_augment(recipe.augment, images.shape[1:], "match.augment")
    paths = _paths(pipeline, recipes)
    outcomes = {
        place: Outcome(**load_npz(path, required=("phi", "correct"), only=("phi", "correct")))
        for place, path in enumerate(paths)
        if path.exists()
    }
    missing = [place for place in range(len(recipes)) if place not in outcomes]
    logger.info(
        f"match: {len(recipes)} recipes, {config.match.models} models each; {len(outcomes)} are trained already"
    )
    if not missing:
        return outcomes
    runs = _plan_runs(pipeline, recipes, missing)
    total = sum(run.images for run in runs)
    with pipeline.progress_bar("match") as on_progress:
        report = _reporter(total, on_progress)
        for run in runs:
            trained = train_recipes(
                run.ensemble,
                recipes,
                run.chunks,
                masks=pipeline.setup.masks,
                query_batch=config.query.batch_size,
                on_images=report,
            )
            for place, outcome in trained:
                save_npz(paths[place], asdict(outcome))
                outcomes[place] = outcome
    return outcomes


@dataclass(frozen=True)
class _Run:
    """An ensemble, and the chunks that its program trains."""

    ensemble: Ensemble
    chunks: list[list[Lane]]
    images: int


def _plan_runs(pipeline: Pipeline, recipes: Sequence[Recipe], missing: Sequence[int]) -> list[_Run]:
    config = pipeline.config
    groups = programs([recipes[place] for place in missing])
    logger.info(f"match: training {len(missing)} recipes in {len(groups)} programs")
    runs = []
    for group in groups:
        places = [missing[index] for index in group]
        setup = pipeline.setup.with_recipe(recipes[places[0]])
        plan = setup.plan(config.ensemble, len(places) * config.match.models)
        ensemble = setup.ensemble(plan)
        chunks = lanes_of(places, config.match.models, plan)
        images = sum(images_of(ensemble, recipes, chunk, pipeline.setup.masks) for chunk in chunks)
        runs.append(_Run(ensemble, chunks, images))
    return runs


def _reporter(total: int, on_progress: Callable[[Progress], None]) -> Callable[[Sequence[Lane], int], None]:
    """Converts the images of each chunk into progress of the whole search."""
    done = 0

    def report(chunk: Sequence[Lane], images: int) -> None:
        nonlocal done
        done += images
        places = sorted({lane.recipe for lane in chunk})
        on_progress(Progress("trying", places, done, total, 0, 0))

    return report


def _paths(pipeline: Pipeline, recipes: Sequence[Recipe]) -> list[Path]:
    """File of each recipe, named by a digest of everything that its models depend on."""
    paths = []
    for recipe in recipes:
        key = {
            **pipeline.setup.with_recipe(recipe).cache_key(),
            "views": [str(View())],
            "models": pipeline.config.match.models,
        }
        paths.append(RunDir(pipeline.out).trials / f"{digest(json.dumps(key, sort_keys=True).encode())}.npz")
    return paths


def _draw(out: Path, target: PublicMargins, phi: np.ndarray, mask: np.ndarray) -> None:
    caption = "Logit margins of the best recipe's shadows and of the target, on the public samples."
    plot = draw(
        "match",
        caption,
        lambda axes: paint_distributions(
            axes, phi[mask], phi[~mask], target.phi[target.members], target.phi[~target.members]
        ),
    )
    plot.save(out, paper=False)
