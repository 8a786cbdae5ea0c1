"""Trains the candidate recipes, compares them with the target, and writes the best."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmia.config import Recipe, load_config, save_config
from jaxmia.data.kinds import IMAGES, kind_of
from jaxmia.data.views import View
from jaxmia.errors import InputError, InvalidFields, UnreadableFile
from jaxmia.evaluation.selection import std_error
from jaxmia.evaluation.unlike import MIN_PER_SIDE
from jaxmia.files import load_npz, save_npz, write_text
from jaxmia.matching.likeness import RecipeDistances, recipe_distances
from jaxmia.matching.recipes import recipes_to_try
from jaxmia.matching.trials import Outcome, TrialTrainer, images_of, programs
from jaxmia.pipeline.stages import Pipeline
from jaxmia.plots.panels import paint_distributions
from jaxmia.plots.style import draw
from jaxmia.provenance import digest, origin
from jaxmia.runs.progress import Progress
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.search import trial_file, write_wanted
from jaxmia.runs.signals import stop_requests
from jaxmia.training.checkpoint import Checkpoints

logger = logging.getLogger(__name__)


_STORED = ("phi", "correct")
_SHOWN = ("epochs", "learning_rate", "weight_decay", "label_smoothing", "augment", "width", "batch_size")
_VARIED = (*_SHOWN, "warmup_epochs")
"""Fields in which the recipes of several searches in one directory may differ."""


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

    Models that an earlier call trained on the same pool are not trained again, and its recipes are ranked with the
    others if they have as many models, or are the best so far, and differ from the configured recipe only in what a
    search varies, or in the batch size. The search uses only the public membership labels, and only to compare
    margins; the choice of the recipe nevertheless depends on them.

    Args:
        pipeline: Pipeline with the challenge, the configured recipe and search space, and the run directory.

    Returns:
        Contents of `match.json`: `target` (its accuracy on members and non-members), and `trials`, the best first. Each
        trial has its `recipe`; its `energy_score` with the `std_error` over models; the distances `in`, `out` and
        `peers` that make it up; accuracies; and `gap_to_best`, the difference from the best recipe's energy score over
        the same models, with `gap_std_error`.

    Raises:
        InputError: There are too few public members or non-members, or the configuration does not match the pool.
        Interrupted: A signal was received; the progress so far is saved, and the same call resumes from there.
    """
    config, pool, out = pipeline.config, pipeline.pool, pipeline.out
    target = _target(pipeline)
    images = pipeline.setup.images
    side = min(images.shape[1:3]) if kind_of(images) is IMAGES else 1
    recipes = recipes_to_try(config.match, config.shadow, side, config.seed)
    recipes += _recipes_of_earlier_calls(pipeline, recipes)
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
        for place, outcome in enumerate(outcomes)
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


def _outcomes(pipeline: Pipeline, recipes: Sequence[Recipe]) -> list[Outcome]:
    """Outcomes of the recipes, arrays `[model, sample]`; trains the models that have no stored outcome."""
    models = pipeline.config.match.models
    images = pipeline.setup.images
    for recipe in recipes:
        kind_of(images).check_augment(recipe.augment, images.shape[1:], "match.augment")
    paths = _paths(pipeline, recipes)
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    logger.info(
        f"match: {len(recipes)} recipes, {models} models each; {len(paths) - len(missing)} of {len(paths)} are trained "
        "already"
    )
    write_wanted(pipeline.out, [_digest(pipeline, recipe) for recipe in recipes], models)
    if missing:
        _train(pipeline, recipes, missing, paths)
    stored = [load_npz(path, required=_STORED, only=_STORED) for path in paths]
    return [
        Outcome(*(np.stack([one[name] for one in stored[first : first + models]]) for name in _STORED))
        for first in range(0, len(stored), models)
    ]


def _recipes_of_earlier_calls(pipeline: Pipeline, recipes: Sequence[Recipe]) -> list[Recipe]:
    """Further recipes whose models have been trained here and equal those of a search from here.

    They have as many models as now, but for the best recipe so far, whose further models are trained, so that it is
    not replaced by a worse one.
    """
    base, found, best = pipeline.config.shadow, [], _varied_of_best(pipeline)
    for path in sorted(RunDir(pipeline.out).trials.glob("*.npz")):
        try:
            stored = json.loads(str(load_npz(path, required=("recipe",), only=("recipe",))["recipe"]))
            recipe = Recipe.model_validate({**dict(base), **stored})
        except (UnreadableFile, ValueError, TypeError):
            continue
        trained = [of.exists() for of in _paths(pipeline, [recipe])]
        enough = all(trained) or (any(trained) and recipe.model_dump(include=set(_VARIED)) == best)
        if enough and recipe not in (*recipes, *found):
            found.append(recipe)
    return found


def _varied_of_best(pipeline: Pipeline) -> dict[str, Any] | None:
    """What an earlier search varied, as in the recipe that it found the best; None if there is none."""
    path = RunDir(pipeline.out).matched
    try:
        return load_config(path).shadow.model_dump(include=set(_VARIED)) if path.exists() else None
    except InvalidFields:  # of another version
        return None


def _train(pipeline: Pipeline, recipes: Sequence[Recipe], missing: Sequence[int], paths: Sequence[Path]) -> None:
    """Trains the missing models, given by their numbers over all recipes, and stores each outcome in its file."""
    config, masks = pipeline.config, pipeline.setup.masks
    models, left = config.match.models, set(missing)
    members = masks(range(models)).sum(1).tolist()
    total = sum(images_of(recipes[number // models], members[number % models]) for number in missing)
    checkpoints = _checkpoints(pipeline, paths)

    def store(number: int, outcome: Outcome) -> None:
        recipe = recipes[number // models].model_dump_json(include=set(_VARIED))
        save_npz(paths[number], {**asdict(outcome), "recipe": np.array(recipe)})

    with pipeline.progress_bar("match: recipes") as on_progress:
        report = _reporter(total, models, on_progress)
        for group in programs(recipes):
            numbers = [place * models + model for place in group for model in range(models)]
            wanted = [number for number in numbers if number in left]
            if not wanted:
                continue
            setup = pipeline.setup.with_recipe(recipes[group[0]])
            # Planned for all models, so that a resumed search keeps its plan.
            ensemble = setup.ensemble(setup.plan(config.ensemble, len(numbers)))
            with stop_requests() as stop_signal:
                trainer = TrialTrainer(ensemble, recipes, models, masks, config.query.batch_size, report, stop_signal)
                trainer.train(wanted, store, checkpoints)
    shutil.rmtree(RunDir(pipeline.out).trial_checkpoints, ignore_errors=True)


def _checkpoints(pipeline: Pipeline, paths: Sequence[Path]) -> Checkpoints:
    """Checkpoints of this search; another search in the same directory has others, since it numbers its models anew."""
    key = digest(json.dumps([path.name for path in paths]).encode())
    every = pipeline.config.ensemble.checkpoint_seconds
    return Checkpoints(RunDir(pipeline.out).trial_checkpoints / key, {"search": key}, every)


def _reporter(total: int, models: int, on_progress: Callable[[Progress], None]) -> Callable[[Sequence[int], int], None]:
    """Converts the images of each chunk into progress of the whole search."""
    done = 0

    def report(numbers: Sequence[int], images: int) -> None:
        nonlocal done
        done += images
        places = sorted({number // models for number in numbers})
        on_progress(Progress("trying", places, done, total, 0, 0))

    return report


def _paths(pipeline: Pipeline, recipes: Sequence[Recipe]) -> list[Path]:
    """File of each model of each recipe, named by a digest of everything that the recipe's models depend on."""
    folder, models = RunDir(pipeline.out).trials, range(pipeline.config.match.models)
    return [folder / trial_file(_digest(pipeline, recipe), model) for recipe in recipes for model in models]


def _digest(pipeline: Pipeline, recipe: Recipe) -> str:
    key = {**pipeline.setup.with_recipe(recipe).cache_key(), "views": [str(View())]}
    return digest(json.dumps(key, sort_keys=True).encode())


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
