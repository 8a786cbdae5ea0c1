import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit

import jaxmia
from jaxmia import EnsembleConfig, InputError, Pool, Preprocessing, Recipe, TrainedShadows, attack, audit, train_shadows
from jaxmia.api import AttackResult
from jaxmia.attacks import Calibrated, Margin
from jaxmia.cli.main import main
from jaxmia.config import Augment
from jaxmia.data.masks import Masks, draw_folds, membership_masks
from jaxmia.data.views import View
from jaxmia.leaderboard.submission import read_scores_csv
from jaxmia.models import Network
from jaxmia.runs.store import ScoreStore
from tests.conftest import Records, make_chunk, optimised, telling
from tests.warm import warm_python

pytestmark = pytest.mark.usefixtures("strict_promotion")

ROOT = Path(__file__).parents[1]
RECIPE = Recipe(architecture="mlp", width=8, known=0.0, count=5, epochs=2, batch_size=8)
BY_HAND = EnsembleConfig(width=2, conv="unrolled", devices=1)


def untrained(images: np.ndarray) -> np.ndarray:
    """A target in plain NumPy: the brighter the image, the surer of class 2."""
    brightness = images.reshape(len(images), -1).mean(1, dtype=np.float64)
    return np.stack([-brightness, np.zeros(len(images)), brightness], axis=1).astype(np.float32) / 64


def unasked(images: np.ndarray) -> np.ndarray:
    """A target that nobody is to ask."""
    raise AssertionError("asked")


def test_shadows_have_the_masks_of_their_numbers_and_the_seed(pool: Pool):
    both = ("identity", "hflip")
    shadows = train_shadows(pool, RECIPE, symmetries=both, ensemble=BY_HAND, seed=4)
    assert np.array_equal(shadows.mask, membership_masks(4, range(5), len(pool)))
    assert shadows.phi.shape == (5, 2, len(pool))
    together = EnsembleConfig(width=5, conv="unrolled", devices=1)
    again = train_shadows(pool, RECIPE, symmetries=both, ensemble=together, seed=4)
    np.testing.assert_allclose(again.phi, shadows.phi, atol=1e-4)


class Excess:
    """An attack of one's own."""

    name = "excess"

    def __call__(self, evidence):
        return evidence.target[0] - evidence.out.mean[0]


def test_own_attacks_take_part_in_auto_and_what_is_none_is_refused(pool: Pool):
    rng = np.random.default_rng(0)
    mask = rng.random((16, len(pool))) < 0.5
    phi = rng.normal(size=(16, 1, len(pool))).astype(np.float32)
    shadows = TrainedShadows(phi, mask, (View(),))
    selection = attack(pool, untrained, shadows, candidates=[Excess()], fpr=0.1).selection
    assert selection
    assert "excess" in [row.name for row in selection.results]
    scores = attack(pool, untrained, shadows, Excess()).scores
    np.testing.assert_allclose(scores, attack(pool, untrained, shadows, Calibrated()).scores, rtol=1e-9, atol=1e-12)
    with pytest.raises(InputError, match="candidates: a function is not an attack"):
        attack(pool, unasked, shadows, candidates=[untrained])  # type: ignore[list-item]
    with pytest.raises(InputError, match="name: a function is not an attack"):
        attack(pool, unasked, shadows, untrained)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="name: a class Excess is not an attack"):
        attack(pool, unasked, shadows, Excess)  # type: ignore[arg-type]


def test_a_target_or_attacks_of_another_kind_are_refused_before_anything_is_trained(pool: Pool):
    from bridge.target import Target

    known = replace(pool, membership=(np.arange(len(pool)) % 2).astype(np.int8))
    shadows = TrainedShadows(np.zeros((4, 1, len(pool)), np.float32), np.zeros((4, len(pool)), bool))
    foreign: list[tuple[object, str]] = [
        (Target(untrained, "t.pt", 3, Preprocessing()), "target: a Target cannot be called, .*; give its method query"),
        (untrained(pool.images_to("test")), "target: a ndarray cannot be called, expected a function of a batch of im"),
    ]
    for target, complaint in foreign:
        with pytest.raises(InputError, match=complaint):
            attack(pool, target, shadows, "margin")  # type: ignore[arg-type]
        with pytest.raises(InputError, match=complaint):
            audit(known, target)  # type: ignore[arg-type]
    for candidates in (Excess(), "lira", 3, None):
        with pytest.raises(InputError, match=r"candidates: a \w+ is not a list of attacks, such as \[MyAttack\(\)\]"):
            attack(pool, unasked, shadows, candidates=candidates)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"attack.name: 'margim' is unknown; did you mean 'margin'\?"):
        audit(known, unasked, name="margim")


def test_features_are_shown_as_they_are_whatever_the_recipe_does():
    rng = np.random.default_rng(0)
    rows = Pool(
        rng.random((40, 1, 6, 1), np.float32),
        rng.integers(0, 3, 40).astype(np.int32),
        np.arange(40).astype(str),
        np.repeat([0, 1], 20).astype(np.int8),
    )
    recipe = RECIPE.model_copy(update={"augment": Augment(crop=1, flip=True)})
    assert train_shadows(rows, recipe, ensemble=BY_HAND).views == (View(),)


def test_images_that_are_not_square_are_not_turned():
    images = np.zeros((4, 2, 3, 1), np.uint8)
    wide = Pool(images, np.arange(4, dtype=np.int32) % 2, np.array(list("abcd")), np.array([0, 1, 0, 1], np.int8))
    with pytest.raises(InputError, match=r"images are 2 x 3; .* needs square ones"):
        train_shadows(wide, RECIPE, symmetries=("identity", "rot90"), ensemble=BY_HAND)


def test_views_are_held_to_the_rules_of_the_configuration(pool: Pool):
    for symmetries, complaint in (
        (("mirror",), "views.*'mirror' must be .*hflip"),
        (("hflip",), "views: .*must begin with identity"),
        (("identity", "identity"), "views: .*name each view once"),
    ):
        with pytest.raises(InputError, match=f"^symmetries and shift: {complaint}"):
            train_shadows(pool, RECIPE, symmetries=symmetries, ensemble=BY_HAND)  # type: ignore[arg-type]
    assert train_shadows(pool, RECIPE, symmetries="identity", ensemble=BY_HAND).views == (View(),)  # type: ignore


def test_shadows_made_elsewhere_are_arrays_in_views(pool: Pool):
    phi, mask = np.zeros((4, 1, len(pool)), np.float32), np.zeros((4, len(pool)), bool)
    with pytest.raises(InputError, match=r"^shadows: phi is a list, expected a NumPy array$"):
        TrainedShadows(phi.tolist(), mask)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^shadows: views: is a str, expected View$"):
        TrainedShadows(phi, mask, ("hflip",))  # type: ignore[arg-type]


def some_shadows(samples: int, **changed: object) -> TrainedShadows:
    """Four models in one view, with some fields changed."""
    given: dict[str, object] = {"phi": np.zeros((4, 1, samples), np.float32), "mask": np.zeros((4, samples), bool)}
    return TrainedShadows(**(given | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (
            {"phi": np.zeros((4, 40), np.float32)},
            r"phi is float32 of shape \[4, 40\], expected floats \[model, view, samp",
        ),
        (
            {"phi": np.zeros((4, 2, 40), np.float32)},
            r"phi is .*\[4, 2, 40\], expected floats .* with model 4, view 1, sam",
        ),
        ({"phi": np.zeros((4, 1, 40), int)}, r"phi is int64 of shape \[4, 1, 40\], expected floats"),
        ({"mask": np.zeros((4, 40))}, r"mask is float64 of shape \[4, 40\], expected booleans \[model, sample\]"),
        ({"mask": np.zeros((3, 40), bool)}, r"mask is .*\[3, 40\], expected .* with model 4, sample 40"),
        ({"free": np.ones(39, bool)}, r"free is bool of shape \[39\], expected booleans \[sample\] with sample 40"),
        ({"free": np.ones(40)}, r"free is float64 of shape \[40\], expected booleans"),
        ({"free": [True] * 40}, "free is a list, expected a NumPy array"),
        ({"fold": [0] * 40}, "fold is a list, expected a NumPy array"),
        ({"fold": np.zeros(40)}, r"fold is float64 of shape \[40\], expected integers \[sample\] with sample 40"),
        ({"fold": np.zeros((40, 1), int)}, r"fold is int64 of shape \[40, 1\], expected integers \[sample\]"),
        ({"preprocessing": (0.5, 0.5)}, "preprocessing: is a tuple, expected Preprocessing"),
        ({"preprocessing": None}, "preprocessing: is a NoneType, expected Preprocessing"),
        ({"views": None}, "views: is a NoneType, expected Sequence"),
    ],
)
def test_shadows_whose_fields_do_not_fit_are_refused(changed: dict[str, object], complaint: str):
    with pytest.raises(InputError, match=f"^shadows: {complaint}"):
        some_shadows(40, **changed)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"pool": "pub.pt"}, "pool: is a str, expected Pool"),
        ({"recipe": {"count": 3}}, "recipe: is a dict, expected Recipe"),
        ({"preprocessing": (0.5, 0.5)}, "preprocessing: is a tuple, expected Preprocessing"),
        ({"classes": 2.5}, "classes: 2.5 is not an integer from 1 to 2147483647"),
        ({"classes": 0}, "classes: 0 is not an integer from 1"),
        ({"classes": True}, "classes: True is not an integer from 1"),
        ({"ensemble": {"width": 2}}, "ensemble: is a dict, expected EnsembleConfig"),
        ({"seed": 1.5}, "seed: 1.5 is not an integer from 0 to 4294967295"),
        ({"seed": -1}, "seed: -1 is not an integer from 0"),
        ({"seed": 2**32}, "seed: 4294967296 is not an integer from 0"),
        ({"network": 3}, "network: is a int, expected TrainableNetwork"),
    ],
)
def test_arguments_are_checked_before_anything_is_trained(pool: Pool, changed: dict[str, object], complaint: str):
    known = replace(pool, membership=(np.arange(len(pool)) % 2).astype(np.int8))
    given = {"recipe": RECIPE, "ensemble": BY_HAND} | changed
    with pytest.raises(InputError, match=f"^{complaint}"):
        train_shadows(**{"pool": pool, **given})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"^{complaint}"):
        audit(**{"pool": known, "target": untrained, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"fpr": 1}, "attack: fpr: 1 must be less than 1"),
        ({"fpr": "low"}, "attack: fpr: 'low' must be a valid number"),
        ({"folds": 2.5}, "folds: 2.5 is not an integer from 2 to 40"),
        ({"candidates": [untrained]}, "candidates: a function is not an attack"),
        ({"candidates": [Margin()]}, "attack.candidates: 'margin' is the name of 2 attacks"),
        ({"recipe": Recipe(count=3)}, "shadows: 3 models, expected at least 4"),
        ({"target": lambda images: untrained(images)[:, :1]}, "target: returned 1 classes, the labels have 3"),
        ({"target": lambda images: untrained(images)[1:]}, r"target: returned an array of \[39, 3\] for 40 images"),
    ],
)
def test_an_audit_checks_what_it_can_before_it_trains(
    pool: Pool, changed: dict[str, object], complaint: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("jaxmia.api.train_shadows", unasked)
    known = replace(pool, membership=(np.arange(len(pool)) % 2).astype(np.int8))
    with pytest.raises(InputError, match=f"^{complaint}"):
        audit(**{"pool": known, "target": untrained, **changed})  # type: ignore[arg-type]


def test_an_attack_takes_shadows_of_its_own_pool(pool: Pool):
    with pytest.raises(InputError, match=r"^shadows: were queried on 39 samples, but the pool has 40$"):
        attack(pool, unasked, some_shadows(39), "margin")
    with pytest.raises(InputError, match=r"^shadows: is a tuple, expected TrainedShadows$"):
        attack(pool, unasked, (1, 2), "margin")  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers(pool: Pool):
    recipe = RECIPE.model_copy(update={"count": 2, "epochs": 1})
    seed, classes = np.int64(4), pool.labels.max() + 1
    shadows = train_shadows(pool, recipe, Preprocessing(), classes, ensemble=BY_HAND, seed=seed)  # type: ignore[arg-type]
    again = train_shadows(pool, recipe, Preprocessing(), int(classes), ensemble=BY_HAND, seed=4)
    np.testing.assert_array_equal(shadows.phi, again.phi)


def test_what_is_assumed_about_the_target_is_told(pool: Pool, records: Records):
    recipe = RECIPE.model_copy(update={"count": 2, "epochs": 1})
    train_shadows(pool, recipe, Preprocessing(), 3, ensemble=BY_HAND)
    assert not telling(records, "not given")
    train_shadows(pool, recipe, ensemble=BY_HAND)
    assert telling(records, "preprocessing: not given, so images are normalised by mean 0.5") == ["WARNING"]
    told = "classes: not given, so 3 as in the labels; pass the target's: target.classes, or target.count_classes(pool)"
    assert telling(records, told) == ["WARNING"]


def test_an_audit_trains_with_as_many_classes_as_the_target_has(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    known = replace(pool, membership=(np.arange(len(pool)) % 2).astype(np.int8))
    wanted = []

    def stopped(pool: Pool, recipe: Recipe, preprocessing: Preprocessing, classes: int, **others: object):
        wanted.append(classes)
        raise InputError("stopped")

    def wide(images: np.ndarray) -> np.ndarray:
        return np.pad(untrained(images), ((0, 0), (0, 4)))

    monkeypatch.setattr("jaxmia.api.train_shadows", stopped)
    for classes in (None, 5):
        with pytest.raises(InputError, match="stopped"):
            audit(known, wide, RECIPE, Preprocessing(), classes)
    assert wanted == [7, 5]


def test_an_attack_by_name_or_object_scores_what_the_target_says(pool: Pool, tmp_path: Path):
    shadows = train_shadows(pool, RECIPE, symmetries=("identity",), ensemble=BY_HAND)
    result = attack(pool, untrained, shadows, "margin")
    assert pool.images is not None
    logits = untrained(pool.images).astype(np.float64)
    own = np.take_along_axis(logits, pool.labels[:, None], 1)[:, 0]
    others = np.array(
        [np.logaddexp.reduce(np.delete(row, label)) for row, label in zip(logits, pool.labels, strict=True)]
    )
    np.testing.assert_allclose(result.scores, own - others, atol=1e-5)
    assert (result.attack, result.selection) == ("margin", None)
    assert np.array_equal(attack(pool, untrained, shadows, Margin()).scores, result.scores)

    result.submit(tmp_path / "submission.csv")
    ids, scores = read_scores_csv(tmp_path / "submission.csv")
    assert ids.tolist() == pool.ids[30:].tolist()
    assert np.array_equal(np.argsort(scores, kind="stable"), np.argsort(result.scores[30:], kind="stable"))
    public = result.figures
    assert (public.members, public.nonmembers) == ((pool.membership == 1).sum(), (pool.membership == 0).sum())

    at_a_fifth = attack(pool, untrained, shadows, "margin", fpr=0.2).figures
    assert [entry.fpr for entry in at_a_fifth.tpr] == [0.2, 0.05, 0.01, 0.001]
    assert at_a_fifth.at(0.2) is not None
    assert len(repr(result)) < 200


def test_a_target_unlike_its_shadows_is_warned_of(pool: Pool, records: Records):
    shadows = train_shadows(pool, RECIPE.model_copy(update={"count": 8}), symmetries=("identity",), ensemble=BY_HAND)
    attack(pool, lambda images: 40 * untrained(images), shadows, fpr=0.2)
    assert telling(records, "target unlike its shadows: its logit margins are ") == ["WARNING"]


def test_a_target_that_fails_says_what_it_was_called_with(pool: Pool):
    shadows = train_shadows(pool, RECIPE.model_copy(update={"count": 2}), symmetries=("identity",), ensemble=BY_HAND)

    def failing(images: np.ndarray) -> np.ndarray:
        raise TypeError("linear(): argument 'input' must be Tensor")

    with pytest.raises(TypeError, match="must be Tensor") as caught:
        attack(pool, failing, shadows, "margin")
    assert caught.value.__notes__ == ["in the target, called with a NumPy array uint8 of shape [40, 6, 6, 2]"]


def test_samples_that_shadows_took_as_told_are_not_scored(pool: Pool, records: Records):
    recipe = RECIPE.model_copy(update={"known": 0.5, "count": 8})
    shadows = train_shadows(pool, recipe, symmetries=("identity",), ensemble=BY_HAND, seed=4)
    masks = Masks.knowing(4, pool.membership, 0.5)
    assert shadows.free is not None
    assert np.array_equal(shadows.free, masks.free)
    assert 0 < (~masks.free).sum() < 30
    assert np.array_equal(shadows.mask, masks(range(8)))

    result = attack(pool, untrained, shadows, "margin")
    fixed = f"scores: {(~masks.free).sum()} of 30 known memberships were fixed in all shadow models"
    assert telling(records, fixed) == ["INFO"]
    assert np.array_equal(np.isnan(result.scores), ~masks.free)
    everyone = attack(pool, untrained, replace(shadows, free=None), "margin").scores
    np.testing.assert_array_equal(result.scores[masks.free], everyone[masks.free])
    free = pool.membership[masks.free & pool.public]
    assert (result.figures.members, result.figures.nonmembers) == ((free == 1).sum(), (free == 0).sum())


def test_without_a_free_sample_nothing_can_be_scored(pool: Pool):
    nothing = some_shadows(len(pool), free=np.zeros(len(pool), bool))
    with pytest.raises(InputError, match=r"^shadows free: the membership of every sample is fixed, so that none can"):
        attack(pool, untrained, nothing, "margin")


def test_by_default_most_of_what_is_told_is_taken_as_told(pool: Pool):
    shadows = train_shadows(
        pool, Recipe(architecture="mlp", width=8, count=2, epochs=1, batch_size=8), ensemble=BY_HAND
    )
    assert shadows.free is not None
    told = sum(round(Recipe().known * (pool.membership == value).sum()) for value in (0, 1))
    assert (~shadows.free).sum() == told > 0


def test_what_cannot_be_done_is_refused(pool: Pool, tmp_path: Path):
    shadows = train_shadows(pool, RECIPE, ensemble=BY_HAND)
    with pytest.raises(InputError, match=r"attack.name: 'margim' is unknown; did you mean 'margin'\?"):
        attack(pool, unasked, shadows, "margim")
    bare = Pool(None, pool.labels, pool.ids, pool.membership)
    with pytest.raises(InputError, match="pool: has no images to train on"):
        train_shadows(bare, RECIPE)
    with pytest.raises(InputError, match="pool: has no images to query"):
        attack(bare, untrained, shadows)
    none = TrainedShadows(shadows.phi[..., :0], shadows.mask[:, :0], shadows.views)
    with pytest.raises(InputError, match="pool: has no samples to query"):
        attack(pool.take(np.arange(0)), unasked, none)
    three = TrainedShadows(shadows.phi[:3], shadows.mask[:3], shadows.views)
    with pytest.raises(
        InputError, match=r"attack.name: auto: shadows: 3 models, .*; or name one .* such as lira-online-global$"
    ):
        attack(pool, untrained, three)
    with pytest.raises(InputError, match="attack: fpr: 1 must be less than 1"):
        attack(pool, untrained, shadows, fpr=1)
    known = Pool(pool.images, pool.labels, pool.ids, np.ones(len(pool), np.int8))
    with pytest.raises(InputError, match="no private samples"):
        attack(known, untrained, shadows, "margin").submit(tmp_path / "none.csv")


def test_an_audit_compares_each_sample_with_models_that_know_all_memberships_but_its_folds(pool: Pool):
    """A naive loop over folds; 'calibrated' looks at one sample at a time."""
    known = Pool(pool.images, pool.labels, pool.ids, (np.arange(len(pool)) % 2).astype(np.int8))
    result = audit(known, untrained, RECIPE, folds=2, name="calibrated", symmetries=("identity",), ensemble=BY_HAND)
    fold = draw_folds(0, len(pool), 2)
    told = RECIPE.model_copy(update={"known": 1.0})
    for number in range(2):
        own = fold == number
        hidden = Pool(pool.images, pool.labels, pool.ids, np.where(own, -1, known.membership).astype(np.int8))
        shadows = train_shadows(hidden, told, symmetries=("identity",), ensemble=BY_HAND)
        assert (shadows.mask[:, ~own] == (known.membership[~own] == 1)).all()
        some = own & shadows.mask.any(0) & ~shadows.mask.all(0)
        out = [shadows.phi[~shadows.mask[:, sample], 0, sample].mean() for sample in np.flatnonzero(some)]
        logits = untrained(known.images[some])
        margin = [row[y] - np.logaddexp(*np.delete(row, y)) for row, y in zip(logits, known.labels[some], strict=True)]
        np.testing.assert_allclose(result.scores[some], np.array(margin) - out, rtol=1e-5, atol=1e-5)
    assert result.figures.members == 20
    with pytest.raises(InputError, match="the membership of 10 samples is unknown; an audit needs all"):
        audit(pool, unasked)
    with pytest.raises(InputError, match="folds: 1 is not an integer from 2 to 40"):
        audit(known, unasked, folds=1)


def test_an_audit_takes_a_network_and_attacks_of_ones_own(pool: Pool):
    known = replace(pool, membership=(np.arange(len(pool)) % 2).astype(np.int8))
    wide = RECIPE.model_copy(update={"count": 8})
    narrow = wide.model_copy(update={"width": 4})

    def audited(recipe: Recipe, **options: Any) -> AttackResult:
        seen = Preprocessing(), 3
        return audit(known, untrained, recipe, *seen, folds=2, symmetries=("identity",), ensemble=BY_HAND, **options)

    selection = audited(wide, candidates=[Excess()], fpr=0.3).selection
    assert selection is not None
    assert "excess" in [row.name for row in selection.results]
    own = audited(wide, network=Network("mlp", (6, 6, 2), 3, width=4), name="calibrated")
    np.testing.assert_array_equal(own.scores, audited(narrow, name="calibrated").scores)
    assert not np.array_equal(own.scores, audited(wide, name="calibrated").scores)


def invented(fold: np.ndarray | None = None, free: np.ndarray | None = None) -> tuple[Pool, Any, TrainedShadows]:
    """Margins in which members stand out by one and a half spreads; the target reads its own from the pixels."""
    rng = np.random.default_rng(5)
    models, samples = 24, 400
    mask = rng.random((models + 1, samples)) < 0.5
    if free is not None:
        mask[:, ~free] = mask[-1, ~free]
    phi = (rng.normal(2, 1, samples) + rng.normal(size=(models + 1, samples)) + 1.5 * mask).astype(np.float32)
    images = expit(phi[-1]).reshape(-1, 1, 1, 1).astype(np.float32)
    membership = np.where(np.arange(samples) < 300, mask[-1], -1).astype(np.int8)
    pool = Pool(images, np.zeros(samples, np.int32), np.arange(samples).astype(str), membership)

    def target(images: np.ndarray) -> np.ndarray:
        margins = logit(images.reshape(-1))
        return np.stack([margins, np.zeros_like(margins)], axis=1)

    return pool, target, TrainedShadows(phi[:-1, None], mask[:-1], fold=fold, free=free)


FOLD = (np.arange(400) % 2).astype(np.int8)
FREE = np.arange(400) >= 100


@pytest.mark.parametrize("given", [{}, {"fold": FOLD}, {"free": FREE}], ids=["all", "in folds", "some fixed"])
@pytest.mark.parametrize("name", ["auto", "calibrated"])
def test_what_python_saves_is_what_the_command_line_computes(given: dict, name: str, tmp_path: Path, records: Records):
    pool, target, shadows = invented(**given)
    result = attack(pool, target, shadows, name, fpr=0.1, epsilon_delta=1e-6, epsilon_confidence=0.9)
    saved = result.save(tmp_path)
    assert result.epsilon == saved.epsilon and saved.epsilon.lower is not None
    assert (result.epsilon.delta, result.epsilon.confidence) == (1e-6, 0.9)
    assert saved.public == result.figures
    assert bool(saved.audit) == ("fold" in given)
    files = [tmp_path / name for name in ("metrics.json", "scores.npz", "samples.csv", "submission.csv")]
    before = [path.read_bytes() for path in files]
    level = ["--attack.fpr", "0.1", "--attack.epsilon_delta", "1e-6", "--attack.epsilon_confidence", "0.9"]
    main(["score", "--out", str(tmp_path), "--attack.name", name, *level])
    assert [path.read_bytes() for path in files] == before


def test_the_table_of_samples_is_that_of_the_file(tmp_path: Path):
    pool, target, shadows = invented(free=FREE)
    result = attack(pool, target, shadows, "calibrated")
    result.save(tmp_path)
    table = result.samples
    with (tmp_path / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(table) == list(rows[0])[: len(table)]
    np.testing.assert_array_equal(table["score"], result.scores)
    np.testing.assert_array_equal(table["fixed"], ~FREE)
    for name in ("score", "target", "in_count", "out_mean", "gap"):
        written = [float(row[name] or "nan") for row in rows]
        np.testing.assert_allclose(table[name], written, rtol=1e-6)
    side = shadows.phi[shadows.mask[:, 200], 0, 200]
    assert (table["in_count"][200], table["in_mean"][200]) == (len(side), pytest.approx(side.mean(), rel=1e-5))


def test_the_report_from_python_has_tables_and_images_and_takes_the_place_of_the_last(tmp_path: Path):
    pool, target, shadows = invented()
    result = attack(pool, target, replace(shadows, phi=shadows.phi[:12], mask=shadows.mask[:12]), "calibrated")
    result.save(tmp_path)
    page = attack(pool, target, shadows, "calibrated").report(tmp_path, paper=True)
    assert page == tmp_path / "report.html" and "calibrated" in page.read_text()
    assert (tmp_path / "figures" / "roc.pdf").exists()
    assert "epsilon is at least" in (tmp_path / "figures" / "tables.tex").read_text()
    assert ScoreStore(tmp_path / "shadows").models() == set(range(24))


def test_saving_does_not_overwrite_models_of_a_run(tmp_path: Path):
    ScoreStore(tmp_path / "shadows").write(make_chunk([0, 1]))
    pool, target, shadows = invented()
    result = attack(pool, target, shadows, "calibrated")
    with pytest.raises(
        InputError, match=r"1\.npz: belongs to a run that is not one saved from Python; use another fol"
    ):
        result.save(tmp_path)
    assert not (tmp_path / "pool.npz").exists()


def test_importing_jaxmia_loads_no_framework_and_every_public_name_is_there():
    code = "import sys, jaxmia; print(sorted({'jax', 'flax', 'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert all(getattr(jaxmia, name).__doc__ for name in jaxmia.__all__)
    with pytest.raises(AttributeError, match="no attribute 'atack'"):
        jaxmia.atack  # noqa: B018


def cells(notebook: Path) -> str:
    """The code of a notebook, in order."""
    content = json.loads(notebook.read_text())
    return "\n".join("".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["library.py", "library.ipynb"])
def test_the_examples_run(name: str, demo: Path, tmp_path: Path):
    """With fewer and shorter shadows, and without measuring how to train them."""
    path = ROOT / "examples" / name
    code = cells(path) if path.suffix == ".ipynb" else path.read_text()
    for given, reduced in (
        ("count=64", "count=8"),
        ("count: int = 64", "count: int = 8"),
        ("epochs=25", "epochs=3"),
        ('symmetries=("identity",)', 'symmetries=("identity",), ensemble=EnsembleConfig(width=8, conv="unrolled")'),
    ):
        code = code.replace(given, reduced)
    assert code.count("EnsembleConfig(") == 1
    code = f"from jaxmia import EnsembleConfig\n{code}"
    shutil.copytree(demo, tmp_path / "runs/library")
    environment = optimised() | {"MPLBACKEND": "agg"}
    done = subprocess.run(
        [warm_python(), "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert re.search(r"AUC 0\.\d{3}, 95 % interval", done.stdout)
    assert len((tmp_path / "runs/library/submission.csv").read_text().splitlines()) == 601


def test_shadows_that_all_diverge_are_refused(pool: Pool):
    hot = RECIPE.model_copy(update={"count": 2, "learning_rate": 1e30})
    with pytest.raises(InputError, match=r"shadows: all 2 diverged; lower learning_rate \(1e\+30\)$"):
        train_shadows(pool, hot, ensemble=BY_HAND)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("own_attack.py", r"^out-rank: AUC 0\.\d{3}, .*: AUC .*: AUC "),
        ("own_network.py", r"own_network:TanhNet: AUC 0\.\d{3}, .*mlp: AUC 0\.\d{3}"),
        ("audit.py", r"AUC 0\.\d{3}, .*TPR at 5 % FPR: 0\.\d{3}, .*most vulnerable: \d+, "),
    ],
)
def test_the_examples_of_own_code_run_as_they_are(name: str, printed: str, tmp_path: Path):
    command = [warm_python(), ROOT / "examples" / name]
    done = subprocess.run(command, cwd=tmp_path, env=optimised(), capture_output=True, text=True, check=True)
    assert re.search(printed, done.stdout, re.DOTALL)
    assert list(tmp_path.iterdir()) == []
