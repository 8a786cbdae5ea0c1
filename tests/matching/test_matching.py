import json
import re
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxmia.cli.display import match_table
from jaxmia.cli.main import main
from jaxmia.config import Augment, Config, MatchConfig, Recipe, load_config, parse_config
from jaxmia.data.masks import Masks, membership_masks
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.data.views import View
from jaxmia.errors import InputError
from jaxmia.matching import match
from jaxmia.matching.likeness import mean_gap, recipe_distances
from jaxmia.matching.recipes import recipes_to_try
from jaxmia.matching.search import _recipes_of_earlier_calls, describe, rank
from jaxmia.matching.trials import Outcome, TrialTrainer, images_of, programs
from jaxmia.models import Network
from jaxmia.pipeline.stages import Pipeline
from jaxmia.runs.search import SearchStatus, read_search
from jaxmia.runs.signals import Interrupted
from jaxmia.training.checkpoint import Checkpoints
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.plan import Plan
from jaxmia.training.programs import Programs
from jaxmia.training.setup import shadow_setup
from jaxmia.training.trainer import Trainer
from tests.conftest import Records, telling

SEED = 5
MASKS = Masks.random(SEED, 800)
PREPROCESSING = Preprocessing(None, (0.3,), (0.38,))
BASE = Recipe(
    architecture="mlp",
    width=24,
    known=0.0,
    epochs=4,
    batch_size=32,
    learning_rate=0.1,
    warmup_epochs=1,
    precision="float32",
)


def changed(**changes: Any) -> Recipe:
    return Recipe.model_validate({**dict(BASE), **changes})


@pytest.fixture(scope="module")
def digits() -> Pool:
    """Eight hundred digits, the last 200 private."""
    source = load_digits()
    chosen = np.random.default_rng(1).permutation(len(source.images))[:800]
    images = np.round(source.images[chosen] * (255 / 16)).astype(np.uint8)[..., None]
    nobody = np.full(800, UNKNOWN, np.int8)
    return Pool(images, source.target[chosen].astype(np.int32), np.array([f"d{i}" for i in range(800)]), nobody)


def ensemble_of(pool: Pool, recipe: Recipe, width: int = 1, kind: type[Ensemble] = Ensemble) -> Ensemble:
    assert pool.images is not None
    trainer = Trainer(Network(recipe.architecture, (8, 8, 1), 10, recipe.width), recipe, PREPROCESSING)
    return kind(trainer, plan_of(width), SEED, pool.images, pool.labels)


def plan_of(width: int) -> Plan:
    return Plan(width, "unrolled", False, tuple(jax.local_devices()[:1]))


def test_the_configured_recipe_comes_first_and_small_grids_are_tried_whole():
    space = MatchConfig(
        epochs=(2, 8), learning_rate=(0.1,), weight_decay=(0,), label_smoothing=(0, 0.3), augment=(Augment(),)
    )
    tried = recipes_to_try(space, BASE, 8, 0)
    assert tried[0] == BASE
    assert {(recipe.epochs, recipe.label_smoothing) for recipe in tried[1:]} == {(2, 0), (2, 0.3), (8, 0), (8, 0.3)}
    assert {recipe.warmup_epochs / recipe.epochs for recipe in tried} == {0.25}


def test_large_grids_are_drawn_from_without_repeats_by_the_seed():
    space = MatchConfig(trials=10)
    drawn = recipes_to_try(space, BASE, 8, 0)
    assert drawn[0] == BASE
    assert 10 <= len(drawn) <= 11
    assert all(drawn.count(recipe) == 1 for recipe in drawn)
    assert drawn == recipes_to_try(space, BASE, 8, 0)
    assert drawn != recipes_to_try(space, BASE, 8, 1)
    assert len({recipe.epochs for recipe in drawn}) > 1


def test_the_default_space_spreads_around_the_configured_recipe():
    everything = recipes_to_try(MatchConfig(trials=10_000), changed(weight_decay=0.01), 32, 0)
    assert {recipe.epochs for recipe in everything} == {1, 2, 4, 8}
    assert {recipe.learning_rate for recipe in everything} == {0.01, 0.03, 0.1, 0.3}
    assert {recipe.weight_decay for recipe in everything} == {0, 0.01, 0.05}
    assert {recipe.label_smoothing for recipe in everything} == {0, 0.05, 0.1}
    assert {(recipe.augment.crop, recipe.augment.flip) for recipe in everything} == {
        (0, False),
        (0, True),
        (4, False),
        (4, True),
    }
    assert {recipe.width for recipe in everything} == {24}


def test_features_are_neither_flipped_nor_cropped():
    assert {recipe.augment for recipe in recipes_to_try(MatchConfig(trials=10_000), BASE, 1, 0)} == {Augment()}


def test_only_what_a_program_is_made_of_parts_programs():
    recipes = [
        changed(epochs=2, warmup_epochs=0.5),
        changed(augment=Augment(flip=True)),
        changed(epochs=8, warmup_epochs=2, label_smoothing=0.1),
        changed(learning_rate=0.3, weight_decay=0),
        changed(width=12),
    ]
    assert programs(recipes) == [[2, 3, 0], [1], [4]]


MIXED = [changed(epochs=2, warmup_epochs=0.5), changed(epochs=6, warmup_epochs=1.5, label_smoothing=0.3)]


def trials_of(pool: Pool, width: int = 4, kind: type[Ensemble] = Ensemble, **options: Any) -> TrialTrainer:
    """Trains three models of each of two recipes."""
    return TrialTrainer(ensemble_of(pool, MIXED[0], width, kind), MIXED, 3, MASKS, **options)


def trained(trials: TrialTrainer, checkpoints: Checkpoints | None = None) -> dict[int, Outcome]:
    """Outcomes by number; both recipes are in each chunk."""
    found: dict[int, Outcome] = {}
    trials.train([3, 0, 4, 1, 5, 2], found.__setitem__, checkpoints)
    return found


@pytest.mark.slow
def test_models_of_a_trial_are_the_shadows_that_a_run_of_its_recipe_trains(digits: Pool):
    """However long the others of the chunk train, whatever their scalars, and with a warm-up."""
    seen: list[int] = []
    found = trained(trials_of(digits, on_images=lambda numbers, images: seen.append(images)))
    for place, recipe in enumerate(MIXED):
        setup = shadow_setup(digits, recipe, PREPROCESSING, 10, views=(View(),), seed=SEED)
        chunk = setup.shadow_trainer(plan_of(3)).train_chunk([0, 1, 2])
        phi, correct = (
            np.stack([getattr(found[3 * place + i], name) for i in range(3)]) for name in ("phi", "correct")
        )
        np.testing.assert_allclose(phi, chunk.phi[:, 0], rtol=1e-5, atol=1e-5)
        assert np.mean(correct[chunk.mask]) == pytest.approx(chunk.accuracy_in.mean(), abs=0.01)
    assert not np.allclose(found[0].phi, found[3].phi, atol=0.1)
    members = MASKS(range(3)).sum(1).tolist()
    assert sum(seen) == sum(images_of(recipe, count) for recipe in MIXED for count in members)
    assert len(seen) > 2


@pytest.mark.slow
def test_a_trial_that_is_stopped_resumes_where_it_was(digits: Pool, tmp_path: Path, records: Records):
    def checkpoints() -> Checkpoints:
        return Checkpoints(tmp_path, {"search": "12ab"}, 0.0)

    seen: list[int] = []
    stopped = trials_of(
        digits,
        on_images=lambda numbers, images: seen.append(images),
        stop_signal=lambda: 15 if len(seen) > 1 else None,
    )
    with pytest.raises(
        Interrupted, match=r"3 models are saved at step [1-9]\d* of \d+; the same command resumes there"
    ):
        trained(stopped, checkpoints())
    found = trained(trials_of(digits), checkpoints())
    assert telling(records, "match: 3 models resume from their checkpoint at step") == ["INFO"]
    for number, outcome in trained(trials_of(digits)).items():
        np.testing.assert_allclose(found[number].phi, outcome.phi, rtol=1e-5, atol=1e-5)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_where_each_number_of_steps_is_compiled_all_calls_have_as_many(digits: Pool, monkeypatch: pytest.MonkeyPatch):
    expected = trained(trials_of(digits))
    trials, counts = trials_of(digits), []
    ensemble = trials.ensemble
    ensemble.programs = Programs(ensemble.trainer, ensemble.plan)  # of its own, since others may be shared
    ensemble.programs.steps_are_static = True

    def counted(ensemble, state, hyper, keys, index, first, total):
        counts.append(len(index))
        return run(ensemble, state, hyper, keys, index, first, total)

    run = Ensemble.run
    monkeypatch.setattr(Ensemble, "run", counted)
    for number, outcome in trained(trials).items():
        np.testing.assert_allclose(expected[number].phi, outcome.phi, rtol=1e-5, atol=1e-5)
    assert set(counts) == {32}


class Small(Ensemble):
    """A device with memory for two models."""

    def run(self, state, hyper, keys, index, first, total):
        if len(keys) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.")
        return super().run(state, hyper, keys, index, first, total)


@pytest.mark.slow
def test_a_trial_that_does_not_fit_into_memory_is_halved(digits: Pool, records: Records):
    found = trained(trials_of(digits, 6, Small))
    assert telling(records, "out of memory at width 6, retrying with 3") == ["INFO"]
    assert telling(records, "out of memory at width 3, retrying with 1") == ["INFO"]
    for number, outcome in trained(trials_of(digits)).items():
        np.testing.assert_allclose(found[number].phi, outcome.phi, rtol=1e-5, atol=1e-5)


def test_distances_equal_a_loop_over_samples_on_the_same_side(rng: np.random.Generator):
    target, phi = rng.normal(size=90), rng.normal(size=(3, 90))
    members, mask = rng.random(90) < 0.5, rng.random((3, 90)) < 0.5
    found = recipe_distances(target, members, phi, mask, mask)

    def distance(one, other, *masks):
        sides = []
        for side in (True, False):
            gaps = [
                abs(one[s] - other[s]) for s in range(90) if members[s] == side and all(m[s] == side for m in masks)
            ]
            sides.append(sum(gaps) / len(gaps))
        return sides

    for model in range(3):
        in_, out = distance(target, phi[model], mask[model])
        assert (found.in_[model], found.out[model]) == (pytest.approx(in_), pytest.approx(out))
        others = [distance(phi[model], phi[k], mask[model], mask[k]) for k in range(3) if k != model]
        assert found.peers[model] == pytest.approx(np.mean(others))


def test_a_sample_that_a_model_saw_and_the_target_did_not_says_nothing(rng: np.random.Generator):
    target, phi = rng.normal(size=60), rng.normal(size=(2, 60))
    members, mask = np.arange(60) < 30, np.tile(np.arange(60) % 2 == 0, (2, 1))
    elsewhere = phi + 100 * (mask != members)
    one, other = (recipe_distances(target, members, margins, mask, mask) for margins in (phi, elsewhere))
    np.testing.assert_array_equal(one.energy_scores, other.energy_scores)


def test_a_shift_is_its_own_size_and_a_diverged_model_is_no_number(rng: np.random.Generator):
    values, chosen = rng.normal(size=100), rng.random(100) < 0.5
    assert mean_gap(values, values + 0.7, chosen) == pytest.approx(0.7)
    assert np.isnan(mean_gap(values, np.where(values > 0, np.inf, values), chosen))
    assert np.isnan(mean_gap(values, values, np.zeros(100, bool)))


def test_likeness_compares_in_with_members_and_out_with_nonmembers(rng: np.random.Generator):
    """Models shifted by 1 where IN and by 0.25 where OUT, however hard a sample is."""
    samples, models = 4000, 3
    members, mask = rng.random(samples) < 0.5, rng.random((models, samples)) < 0.5
    hardness = 9 * rng.normal(size=samples)
    phi = hardness + np.where(mask, 3.0, 0.25) + 0.001 * rng.normal(size=(models, samples))
    target = hardness + np.where(members, 2.0, 0.0)
    correct = rng.random((models, samples)) < np.where(mask, 0.9, 0.6)
    found = recipe_distances(target, members, phi, mask, correct)
    np.testing.assert_allclose(found.in_, 1.0, atol=0.01)
    np.testing.assert_allclose(found.out, 0.25, atol=0.01)
    np.testing.assert_allclose(found.distances, (found.in_ + found.out) / 2)
    np.testing.assert_allclose(found.energy_scores, found.distances - found.peers / 2)
    assert found.peers.max() < 0.01
    assert (found.accuracy_in, found.accuracy_out) == (pytest.approx(0.9, abs=0.02), pytest.approx(0.6, abs=0.02))


def test_the_misfit_prefers_the_targets_own_recipe_to_a_steady_one_in_its_middle(rng: np.random.Generator):
    """Models of one recipe are shifted by a from N(0, 1), as targets are; those of the other never.

    In closed form, the mean misfit of the first is E|a - a'| / 2 = 1 / sqrt(pi), that of the other E|a| = sqrt(2 / pi).
    By mere distance the other would be ahead.
    """
    values, members = rng.normal(size=100), np.arange(100) % 2 == 0
    mask = np.tile(members, (4, 1))

    def of(target: np.ndarray, shifts: np.ndarray) -> tuple[float, float]:
        found = recipe_distances(target, members, values + shifts, mask, mask)
        return found.energy_score, found.distances.mean()

    targets = values + rng.normal(size=(300, 1))
    own = np.mean([of(target, rng.normal(size=(4, 1))) for target in targets], axis=0)
    steady = np.mean([of(target, np.zeros((4, 1))) for target in targets], axis=0)
    assert own[0] == pytest.approx(1 / np.sqrt(np.pi), abs=0.1)
    assert steady[0] == pytest.approx(np.sqrt(2 / np.pi), abs=0.1)
    assert own[0] < steady[0]
    assert own[1] > steady[1]


def test_diverged_recipes_come_last_and_have_no_figures(rng: np.random.Generator):
    members, mask = np.arange(60) < 30, np.tile(np.arange(60) % 2 == 0, (2, 1))
    target, phi = rng.normal(size=60), rng.normal(size=(2, 60))

    def of(margins: np.ndarray):
        return recipe_distances(target, members, margins, mask, np.ones_like(mask))

    found = {0: of(np.full((2, 60), np.nan)), 1: of(phi + 9), 2: of(phi)}
    assert rank(found) == [2, 1, 0]
    assert describe(found[0], found[2])["energy_score"] is None
    assert describe(found[1], found[2])["gap_to_best"] == pytest.approx(found[1].energy_score - found[2].energy_score)


class Offline(Pipeline):
    """A pipeline whose pool and target are there already."""

    def query(self) -> None:
        pass


def pipeline_of(pool: Pool, target: tuple[np.ndarray, np.ndarray], config: Config, out: Path) -> Pipeline:
    known = SimpleNamespace(classes=10, preprocessing=PREPROCESSING)
    pipeline = Offline(config, out, _pool=pool, _target=cast(Any, known))
    np.savez(out / "target.npz", phi=target[0], correct=target[1])
    return pipeline


def challenge(pool: Pool, truth: Recipe) -> tuple[Pool, tuple[np.ndarray, np.ndarray]]:
    """A target trained by `truth`, which no model of a search is, and the pool with its public membership."""
    number = 1000
    (outcome,) = TrialTrainer(ensemble_of(pool, truth), [truth], number + 1, MASKS).train_chunk([number])
    members = membership_masks(SEED, [number], len(pool))[0]
    return replace(pool, membership=np.where(np.arange(800) < 600, members, UNKNOWN).astype(np.int8)), (
        outcome.phi[None],
        outcome.correct,
    )


CONFIG = Config.model_validate(
    {
        "challenge": {"mean": [0.3], "std": [0.38]},
        "shadow": {**BASE.model_dump(), "warmup_epochs": 0, "epochs": 12},
        "seed": SEED,
        "ensemble": {"width": 8, "conv": "unrolled", "devices": 1},
        "match": {
            "epochs": [3, 12, 48],
            "learning_rate": [0.02, 0.1],
            "weight_decay": [0],
            "label_smoothing": [0, 0.2],
            "augment": [{}],
            "models": 4,
        },
    }
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "known",
    [
        {"epochs": 3, "learning_rate": 0.1, "label_smoothing": 0.0},
        {"epochs": 48, "learning_rate": 0.02, "label_smoothing": 0.2},
        {"epochs": 48, "learning_rate": 0.1, "label_smoothing": 0.0},
    ],
)
def test_a_known_recipe_is_found(digits: Pool, tmp_path: Path, known: dict[str, float]):
    truth = changed(**known, weight_decay=0, warmup_epochs=0)
    pool, target = challenge(digits, truth)
    result = match(pipeline_of(pool, target, CONFIG, tmp_path))
    trials = result["trials"]
    assert len(trials) == 13
    assert [trial["energy_score"] for trial in trials] == sorted(trial["energy_score"] for trial in trials)
    own = next(trial for trial in trials if {**trial["recipe"], **known} == trial["recipe"])
    assert own is trials[0] or own["gap_to_best"] <= 2 * own["gap_std_error"]
    assert trials[-1]["energy_score"] > 3 * own["energy_score"]
    assert own["accuracy_out"] == pytest.approx(result["target"]["accuracy_out"], abs=0.06)

    best = load_config(tmp_path / "matched.yaml")
    assert best.shadow.model_dump(include={"epochs", "learning_rate", "label_smoothing"}) == {
        name: trials[0]["recipe"][name] for name in known
    }
    assert best == CONFIG.model_copy(update={"shadow": best.shadow, "matched": True})
    assert json.loads((tmp_path / "match.json").read_text(), parse_constant=pytest.fail) == result
    assert (tmp_path / "match.png").read_bytes().startswith(b"\x89PNG")
    assert match_table(result).row_count == 12


@pytest.mark.slow
def test_recipes_that_are_there_are_not_trained_again(digits: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pool, target = challenge(digits, BASE)
    small = CONFIG.match.model_copy(update={"epochs": (1,), "learning_rate": (0.1,), "label_smoothing": (0.0,)})
    config = CONFIG.model_copy(update={"match": small, "shadow": BASE})
    first = match(pipeline_of(pool, target, config, tmp_path))
    assert sorted(path.suffix for path in (tmp_path / "match").iterdir()) == [".json", *[".npz"] * 2 * 4]
    wider = config.model_copy(update={"match": small.model_copy(update={"label_smoothing": (0.0, 0.1)})})
    asked: list[int] = []

    def counted(trials, numbers, store, checkpoints):
        asked.extend(numbers)
        return train(trials, numbers, store, checkpoints)

    train = TrialTrainer.train
    monkeypatch.setattr(TrialTrainer, "train", counted)
    second = match(pipeline_of(pool, target, wider, tmp_path))
    assert sorted(asked) == [8, 9, 10, 11]
    found = {json.dumps(trial["recipe"]): trial["energy_score"] for trial in second["trials"]}
    assert len(found) == 3
    assert all(found[json.dumps(trial["recipe"])] == trial["energy_score"] for trial in first["trials"])


@pytest.mark.slow
def test_a_refined_search_ranks_the_recipes_of_the_coarse_one_too(digits: Pool, tmp_path: Path):
    """The configured recipe is the truth in the first search and far from it in the second."""
    pool, target = challenge(digits, changed(epochs=12, warmup_epochs=0))
    small = CONFIG.match.model_copy(update={"epochs": (12,), "learning_rate": (0.1,), "label_smoothing": (0.0,)})
    first = CONFIG.model_copy(update={"match": small})
    coarse = match(pipeline_of(pool, target, first, tmp_path))
    far = first.shadow.model_copy(update={"epochs": 1, "count": 7})
    space = small.model_copy(update={"epochs": (1,), "learning_rate": (0.02,)})
    second = first.model_copy(update={"match": space, "shadow": far})
    both = match(pipeline_of(pool, target, second, tmp_path))
    assert len(both["trials"]) == len(coarse["trials"]) + 2
    assert both["trials"][0] == coarse["trials"][0], "a search never ends with a worse recipe than one before it"
    best = load_config(tmp_path / "matched.yaml").shadow
    assert (best.epochs, best.learning_rate, best.count) == (12, 0.1, 7)
    other = second.model_copy(update={"seed": SEED + 1})
    more = second.model_copy(update={"match": space.model_copy(update={"models": 5})})
    five = match(pipeline_of(pool, target, more, tmp_path))["trials"]
    assert len(five) == 3, "others of fewer models are not comparable, but the best one gets its fifth"
    assert five[0]["recipe"] == coarse["trials"][0]["recipe"]
    assert load_config(tmp_path / "matched.yaml").shadow == best
    assert len(match(pipeline_of(pool, target, other, tmp_path))["trials"]) == 2, "of another seed"
    for path in (tmp_path / "match").glob("*.npz"):
        path.write_text("half")
    assert _recipes_of_earlier_calls(pipeline_of(pool, target, second, tmp_path), []) == []


@pytest.mark.slow
def test_a_stopped_search_keeps_what_is_trained(digits: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stopped in its second chunk of three, it ends as one that was not, and trains each step of a model once."""
    pool, target = challenge(digits, BASE)
    space = CONFIG.match.model_copy(update={"epochs": (2, 3), "learning_rate": (0.1,), "label_smoothing": (0.0,)})
    four = CONFIG.ensemble.model_copy(update={"width": 4})
    config = CONFIG.model_copy(update={"match": space, "shadow": changed(warmup_epochs=0), "ensemble": four})
    (tmp_path / "whole").mkdir()
    expected = match(pipeline_of(pool, target, config, tmp_path / "whole"))
    per_epoch = -(-int(MASKS(range(4)).sum(1).max()) // 32)
    steps: list[int] = []

    def counted(ensemble, state, hyper, keys, index, first, total):
        if sum(steps) == 4 * per_epoch:
            signal.raise_signal(signal.SIGTERM)
        steps.append(len(index))
        return run(ensemble, state, hyper, keys, index, first, total)

    run = Ensemble.run
    monkeypatch.setattr(Ensemble, "run", counted)
    with pytest.raises(Interrupted, match="stopped by SIGTERM; 4 models are saved at step"):
        match(pipeline_of(pool, target, config, tmp_path))
    assert len(list((tmp_path / "match").glob("*.npz"))) == 4
    assert read_search(tmp_path) == SearchStatus(models=12, models_done=4, recipes=3, recipes_done=1, best=None)
    assert match(pipeline_of(pool, target, config, tmp_path))["trials"] == expected["trials"]
    assert sum(steps) == (4 + 3 + 2) * per_epoch
    assert not (tmp_path / "match" / "checkpoints").exists()
    best = {name: expected["trials"][0][name] for name in ("recipe", "energy_score", "std_error")}
    assert read_search(tmp_path) == SearchStatus(models=12, models_done=12, recipes=3, recipes_done=3, best=best)


@pytest.mark.slow
def test_private_samples_have_no_part_in_the_ranking(digits: Pool, tmp_path: Path):
    """Whatever the target says of them."""
    pool, target = challenge(digits, BASE)
    small = CONFIG.match.model_copy(update={"epochs": (1,), "learning_rate": (0.1,), "label_smoothing": (0.0,)})
    config = CONFIG.model_copy(update={"match": small, "shadow": BASE})
    (tmp_path / "other").mkdir()
    phi = target[0].copy()
    phi[:, ~pool.public] = -99.0
    one = match(pipeline_of(pool, target, config, tmp_path))
    other = match(pipeline_of(pool, (phi, target[1]), config, tmp_path / "other"))
    assert one["trials"] == other["trials"]


def test_too_few_public_samples_of_a_kind_are_refused(digits: Pool, tmp_path: Path):
    few = replace(digits, membership=np.where(np.arange(800) < 19, 1, np.where(np.arange(800) < 99, 0, UNKNOWN)))
    with pytest.raises(InputError, match="match: 19 public members and 80 non-members, expected at least 20 of each"):
        match(pipeline_of(few, (np.zeros((1, 800)), np.ones(800, bool)), CONFIG, tmp_path))


@pytest.mark.slow
def test_a_search_that_only_diverges_says_what_to_do(digits: Pool, tmp_path: Path):
    pool, target = challenge(digits, BASE)
    space = CONFIG.match.model_copy(update={"epochs": (3,), "learning_rate": (1e30,), "label_smoothing": (0.0,)})
    config = CONFIG.model_copy(update={"match": space, "shadow": changed(learning_rate=1e30)})
    with pytest.raises(InputError, match=r"every training diverged; try lower values in match\.learning_rate"):
        match(pipeline_of(pool, target, config, tmp_path))
    assert not (tmp_path / "matched.yaml").exists()


def test_dihedral_augmentation_needs_square_images(digits: Pool, tmp_path: Path):
    assert digits.images is not None
    oblong = replace(digits, images=digits.images[:, :6], membership=(np.arange(800) % 2).astype(np.int8))
    space = CONFIG.match.model_copy(update={"augment": (Augment(dihedral=True),)})
    config = CONFIG.model_copy(update={"match": space})
    with pytest.raises(InputError, match=r"match\.augment: images are 6 x 8; dihedral needs square ones"):
        match(pipeline_of(oblong, (np.zeros((1, 800)), np.ones(800, bool)), config, tmp_path))


def test_the_command_hands_over_the_configuration_and_shows_the_ranking(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    seen: list[Pipeline] = []
    gap = {"gap_to_best": 0.25, "gap_std_error": 0.125}
    figures = {"energy_score": 0.5, "std_error": 0.1, **gap, "accuracy_in": 1.0, "accuracy_out": 0.875}
    recipes = [{"epochs": epochs, "augment": {"crop": 4, "flip": True}, "width": None} for epochs in (7, 9)]
    trials = [{"recipe": recipes[0], **figures}, {"recipe": recipes[1], **figures, "energy_score": None}]

    def found(pipeline: Pipeline) -> dict[str, Any]:
        seen.append(pipeline)
        return {"target": {"accuracy_in": 0.75, "accuracy_out": 0.5}, "models": 3, "trials": trials}

    monkeypatch.setattr("jaxmia.matching.match", found)
    monkeypatch.setattr("jaxmia.training.devices.prepare_devices", lambda: None)
    config = tmp_path / "config.yaml"
    config.write_text(f"shadow: {{epochs: 5}}\nchallenge: {{public: {config}, private: {config}, target: {config}}}")
    main(["match", "--config", str(config), "--out", str(tmp_path), "--match.epochs", "7", "9", "--match.models", "3"])
    assert seen[0].config.match == MatchConfig(epochs=(7, 9), models=3)
    captured = capsys.readouterr()
    rows = [re.findall(r"[\w.-]+", line) for line in captured.out.splitlines()]
    assert ["epochs", "7", "0.500", "0.100", "0.250", "0.125", "1.000", "0.875"] in rows
    assert ["epochs", "9", "diverged", "-", "1.000", "0.875"] in rows
    assert str(tmp_path / "matched.yaml") in captured.err
    with pytest.raises(SystemExit):
        main(["match", "--config", str(config), "--out", str(config)])
    assert f"{config}: is a file, expected the folder of the results" in capsys.readouterr().err
    assert len(seen) == 1


def test_an_unknown_key_within_a_list_is_told_the_right_one():
    with pytest.raises(InputError, match=r"^here: match\.augment\.1\.flop: unknown key; did you mean 'flip'\?$"):
        parse_config({"match": {"augment": [{}, {"flop": True}]}}, "here")
