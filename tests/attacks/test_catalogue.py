"""What holds for every attack: one protocol, invariances, and no score where there is no signal."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmia.attacks import (
    Adaptive,
    Aligned,
    Attack,
    Base,
    Bavaria,
    Calibrated,
    Evidence,
    LiraMultivariate,
    LiraOffline,
    LiraOnline,
    Margin,
    PerClass,
    RankFusion,
    Rmia,
    misaligned,
    misalignment,
    sample_fits,
)
from jaxmia.attacks.catalogue import attack_names, distinct_attacks, standard_attacks
from jaxmia.errors import InputError
from jaxmia.evaluation.metrics import auc
from tests.attacks import naive
from tests.attacks.test_basic import hard_evidence

MENU = [*standard_attacks(), Adaptive("identity"), RankFusion((LiraOnline(), Calibrated()))]
named = pytest.mark.parametrize("attack", MENU, ids=lambda attack: attack.name)


def test_names_are_unique_and_fit_as_keys():
    names = [attack.name for attack in standard_attacks()]
    assert len(set(names)) == len(names)
    assert all(name.isprintable() and " " not in name and "/" not in name for name in names)
    assert names[0] == "loss"


def test_the_page_on_attacks_lists_every_name():
    page = (Path(__file__).parents[2] / "docs/attacks.md").read_text()
    section = page.partition("## Names")[2].partition("\n## ")[0].partition("\n\n")[2].partition("\n\n")[2]
    assert re.findall("`(.+?)`", section) == attack_names()


@pytest.mark.parametrize("views", [1, 2])
def test_the_attacks_of_a_run_can_be_named_and_no_two_give_the_same_scores(views: int):
    evidence = naive.random_evidence(models=12, views=views)
    attacks = distinct_attacks(evidence)
    run = [attack(evidence) for attack in attacks]
    assert set(attacks) <= set(standard_attacks())
    assert all(np.abs(run[i] - run[k]).max() > 1e-6 for i in range(len(run)) for k in range(i))


def test_a_single_view_is_its_own_weighted_mean():
    evidence = naive.random_evidence(models=12, views=1)
    names = {attack.name: attack for attack in standard_attacks()}
    weighted_names = [name for name in names if "-fisher" in name and name.replace("-fisher", "") in names]
    assert len(weighted_names) > 9
    for name in weighted_names:
        plain = names[name.replace("-fisher", "")]
        np.testing.assert_allclose(names[name](evidence), plain(evidence), rtol=1e-9, atol=1e-12, err_msg=name)


def untrained_shifts(seed: int) -> tuple[Evidence, np.ndarray]:
    """A target trained without augmentation: it knows its members as they were shown, and in no other view."""
    rng = np.random.default_rng(seed)
    models, samples, views = 16, 3000, 18
    member = rng.random((models + 1, samples)) < 0.5
    gain = np.where(np.arange(views) == 0, 2.0, 0.05)[:, None]
    phi = rng.normal(2, 2, samples) + gain * member[:, None] + rng.normal(size=(models + 1, views, samples))
    kept = np.flatnonzero(member[1:].any(0) & ~member[1:].all(0))
    return Evidence(phi[0], phi[1:], member[1:], np.zeros(samples, int)).take(kept), member[0, kept]


@pytest.mark.parametrize(
    "attack",
    [
        Calibrated("fisher"),
        LiraOnline("tied-shrunk", "fisher"),
        LiraOffline("shrunk", views="fisher"),
        Base(None, 2.0, "fisher"),
        Bavaria("student", "fisher"),
        Adaptive("fisher"),
        LiraMultivariate(),
    ],
    ids=lambda attack: attack.name,
)
def test_fisher_weights_hold_where_a_mean_over_views_destroys_the_attack(attack):
    evidence, members = untrained_shifts(0)
    first = Evidence(evidence.target[:1], evidence.shadows[:, :1], evidence.mask, evidence.labels)
    alone = auc(attack(first), members)
    assert auc(attack(evidence), members) > alone - 0.01
    assert auc(LiraOnline("shrunk")(evidence), members) < alone - 0.1


@named
def test_every_attack_follows_the_protocol(attack):
    evidence = naive.random_evidence(models=10, samples=50)
    scores = attack(evidence)
    assert isinstance(attack, Attack)
    assert scores.dtype == np.float64
    assert scores.shape == (50,)
    assert np.isfinite(scores).all()


@named
@given(seed=st.integers(0, 2**16))
@settings(max_examples=5, deadline=None)
def test_order_of_models_and_samples_does_not_matter(attack, seed):
    evidence = naive.random_evidence(models=10, samples=50, seed=seed)
    rng = np.random.default_rng(seed)
    models, samples = rng.permutation(10), rng.permutation(50)
    shuffled = Evidence(
        evidence.target[:, samples],
        evidence.shadows[models][:, :, samples],
        evidence.mask[models][:, samples],
        evidence.labels[samples],
    )
    np.testing.assert_allclose(attack(shuffled), attack(evidence)[samples], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "attack",
    [attack for attack in MENU if not isinstance(attack, LiraMultivariate | Rmia)],
    ids=lambda attack: attack.name,
)
def test_a_view_that_repeats_the_only_one_adds_nothing(attack):
    one = naive.random_evidence(views=1)
    two = Evidence(np.repeat(one.target, 2, 0), np.repeat(one.shadows, 2, 1), one.mask, one.labels)
    np.testing.assert_allclose(attack(two), attack(one), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    "attack",
    [
        *(LiraOnline(mode) for mode in ("per-example", "global", "tied", "shrunk")),
        LiraOffline(),
        Bavaria(),
        LiraMultivariate(),
        Adaptive(),
        PerClass(Margin()),
    ],
    ids=lambda attack: attack.name,
)
def test_unit_and_origin_of_the_margin_do_not_matter(attack):
    evidence = naive.random_evidence(models=10)
    moved = Evidence(3 * evidence.target - 40, 3 * evidence.shadows - 40, evidence.mask, evidence.labels)
    np.testing.assert_allclose(attack(moved), attack(evidence), rtol=1e-6, atol=1e-7)


@named
def test_without_a_gap_no_attack_tells_members_apart(attack):
    """Membership is drawn apart from the margins; three standard errors of the AUC of 2 x 6000 samples are 0.016."""
    rng = np.random.default_rng(0)
    evidence, _ = hard_evidence(8, seed=5, samples=12_000)
    mask = rng.random(evidence.mask.shape) < 0.5
    members = rng.random(12_000) < 0.5
    null = Evidence(evidence.target, evidence.shadows, mask, evidence.labels)
    kept = np.flatnonzero(mask.any(0) & ~mask.all(0))
    assert abs(auc(attack(null.take(kept)), members[kept]) - 0.5) < 0.016


def test_fusion_is_the_mean_of_ranks():
    evidence = naive.random_evidence(samples=20)
    parts = (Margin(), Calibrated())
    ranks = [
        [sum(b < a for b in s) + (sum(b == a for b in s) + 1) / 2 for a in s] for s in (p(evidence) for p in parts)
    ]
    np.testing.assert_allclose(RankFusion(parts)(evidence), np.mean(ranks, axis=0) / 20)
    assert RankFusion(parts).name == "fusion(margin+calibrated)"
    with pytest.raises(InputError, match="is empty, expected at least one attack"):
        RankFusion(())


def test_per_class_gives_each_class_the_same_median_and_width():
    evidence = naive.random_evidence(samples=300, models=14)
    scores = PerClass(Calibrated())(evidence)
    for label in range(3):
        low, median, high = np.quantile(scores[evidence.labels == label], [0.25, 0.5, 0.75])
        assert median == pytest.approx(0, abs=1e-12)
        assert high - low == pytest.approx(1)
    constant = Evidence(np.ones((1, 4)), np.zeros((0, 1, 4)), np.zeros((0, 4), bool), np.zeros(4, int))
    np.testing.assert_array_equal(PerClass(Margin())(constant), np.zeros(4))


def test_alignment_undoes_a_shift_and_a_stretch_and_leaves_a_like_target():
    evidence, members = hard_evidence(32, seed=3)
    other = evidence.with_target(0.7 * evidence.target - 1.5)
    assert misalignment(evidence) < 3
    assert misalignment(other) > 10
    plain, aligned = Adaptive(), Aligned(Adaptive())
    np.testing.assert_allclose(aligned(other), aligned(evidence), rtol=1e-7, atol=1e-8)
    assert auc(plain(other), members) < 0.7 < auc(aligned(other), members)
    assert auc(aligned(evidence), members) == pytest.approx(auc(plain(evidence), members), abs=0.01)


@pytest.mark.parametrize("models", [3, 4, 8, 32])
def test_a_target_like_its_shadows_is_hardly_ever_called_unlike(models: int):
    """Of 400 targets drawn as the shadows are, four standard deviations alone would refuse a tenth at three shadows."""
    rng = np.random.default_rng(models)
    samples = 200
    alarms = 0
    for _ in range(400):
        phi = rng.normal(size=(models + 1, 1, samples)) * rng.lognormal(0, 0.1, (models + 1, 1, 1))
        phi += rng.normal(0, 0.5, (models + 1, 1, 1))
        mask = rng.random((models, samples)) < 0.5
        alarms += misaligned(Evidence(phi[0], phi[1:], mask, np.zeros(samples, int)))
    assert alarms <= 2


def test_misalignment_needs_three_shadows_to_say_anything():
    evidence = naive.random_evidence(models=6)
    two = Evidence(evidence.target + 100, evidence.shadows[:2], evidence.mask[:2], evidence.labels)
    assert misalignment(two) == 0
    assert misalignment(evidence.with_target(evidence.target + 100)) > 10


def test_sample_fits_are_those_of_the_first_view():
    evidence = naive.random_evidence(models=8)
    mask = np.array(evidence.mask)
    mask[:, 5], mask[:, 6] = False, [True] + [False] * 7
    evidence = Evidence(evidence.target, evidence.shadows, mask, evidence.labels)
    fits = sample_fits(evidence)
    in_, out = naive.split(evidence, 0, 9)
    assert (fits["in_count"][9], fits["out_count"][9]) == (len(in_), len(out))
    assert fits["out_mean"][9] == pytest.approx(naive.mean(out))
    assert fits["in_std"][9] == pytest.approx(np.std(in_, ddof=1))
    assert fits["in_count"][5] == 0
    assert np.isnan([fits["in_mean"][5], fits["in_std"][5], fits["in_std"][6]]).all()
    assert fits["in_mean"][6] == pytest.approx(evidence.shadows[0, 0, 6])
    np.testing.assert_array_equal(fits["target"], evidence.target[0])
    assert np.isnan(fits["gap"][[5, 6]]).all()


def test_the_gap_of_a_sample_has_the_closed_form_and_no_scale():
    """Means 4 and 1, variances 2 and 8: a gap of 3 over the root of 5. Margins that never vary have none."""
    phi = np.array([[3.0, 1.0], [5.0, 1.0], [-1.0, 0.0], [3.0, 0.0]])[:, None]
    mask = np.array([[True] * 2] * 2 + [[False] * 2] * 2)
    for scale in (1, 100):
        gaps = sample_fits(Evidence(np.zeros((1, 2)), scale * phi, mask, np.zeros(2, int)))["gap"]
        assert gaps[0] == pytest.approx(3 / 5**0.5)
        assert np.isnan(gaps[1])


def test_in_folds_a_target_is_held_against_models_of_one_fold_at_a_time():
    """Models differ in confidence as a whole. Rows that join models of eight folds hardly do, and would call alike
    targets unlike: the chance of that is one in 10,000."""
    rng = np.random.default_rng(0)
    samples, models, folds, alarms, naively = 400, 16, 8, 0, 0
    fold, mask, labels = np.arange(samples) % folds, rng.random((models, samples)) < 0.5, np.zeros(samples, int)
    for _ in range(40):
        level = rng.normal(size=(models, folds))
        phi = rng.normal(size=(models, 1, samples)) + level[:, None, fold]
        target = rng.normal(size=(1, samples)) + rng.normal()
        evidence = Evidence(target, phi, mask, labels, fold)
        by_hand = [
            misalignment(Evidence(target[:, own], phi[..., own], mask[:, own], labels[own]))
            for own in (np.flatnonzero(fold == number) for number in range(folds))
        ]
        assert misalignment(evidence) == pytest.approx(np.median(by_hand))
        alarms += misaligned(evidence)
        naively += misaligned(Evidence(target, phi, mask, labels))
    assert alarms == 0
    assert naively >= 3
