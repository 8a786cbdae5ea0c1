import re
from dataclasses import replace

import numpy as np
import pytest

from jaxmia.attacks import LiraOnline
from jaxmia.attacks import evidence as evidence_module
from jaxmia.attacks import moments as moments_module
from jaxmia.attacks.catalogue import standard_attacks
from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.moments import log_probability, moments
from jaxmia.errors import InputError
from tests.attacks import naive


def test_moments_equal_a_loop_over_single_numbers():
    evidence = naive.random_evidence(models=9, views=3)
    for side, which in zip(evidence.sides, (0, 1), strict=True):
        for sample in range(len(evidence.labels)):
            parts = [naive.split(evidence, view, sample)[which] for view in range(3)]
            assert side.count[sample] == len(parts[0])
            for view, values in enumerate(parts):
                assert side.mean[view, sample] == pytest.approx(naive.mean(values), rel=1e-13)
                average = naive.mean([np.exp(naive.log_p(value)) for value in values])
                assert side.log_mean_p[view, sample] == pytest.approx(np.log(average), rel=1e-12, abs=1e-14)
                for other, others in enumerate(parts):
                    products = [
                        (a - naive.mean(values)) * (b - naive.mean(others)) for a, b in zip(values, others, strict=True)
                    ]
                    assert side.scatter[view, other, sample] == pytest.approx(sum(products), rel=1e-11, abs=1e-13)


def test_moments_do_not_depend_on_the_chunks(monkeypatch):
    evidence = naive.random_evidence()
    whole = moments(evidence.shadows, evidence.mask)
    monkeypatch.setattr(moments_module, "ELEMENTS_PER_CHUNK", 7 * 24)
    for side, chunked in zip(whole, moments(evidence.shadows, evidence.mask), strict=True):
        for name in ("count", "mean", "scatter", "log_mean_p"):
            np.testing.assert_array_equal(getattr(side, name), getattr(chunked, name))


def test_spread_survives_a_large_offset_in_float32():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 1, 5)).astype(np.float32)
    shadows = (noise * np.float32(0.25) + np.float32(4096)).astype(np.float32)
    mask = np.arange(400)[:, None] % 2 == np.zeros(5, int)
    in_, _ = moments(shadows, mask)
    expected = shadows[::2, 0].astype(np.float64).var(0) * 200
    np.testing.assert_allclose(in_.scatter[0, 0], expected, rtol=1e-10)


def test_mean_probability_is_exact_where_probabilities_underflow():
    shadows = np.array([-900.0, -901.0, 800.0])[:, None, None]
    mask = np.array([True, True, False])[:, None]
    in_, out = moments(shadows, mask)
    assert in_.log_mean_p[0, 0] == pytest.approx(-900 + np.log((1 + np.exp(-1)) / 2), rel=1e-14)
    assert out.log_mean_p[0, 0] == 0
    np.testing.assert_allclose(log_probability(np.array([-1000.0, 0.0, 50.0])), [-1000, -np.log(2), -np.exp(-50)])


def test_merged_moments_equal_those_of_all_models():
    evidence = naive.random_evidence(models=15, seed=3)
    whole = evidence.sides
    parts = [moments(evidence.shadows[part], evidence.mask[part]) for part in (slice(0, 1), slice(1, 15))]
    for side, first, second in zip(whole, *parts, strict=True):
        merged = first.merge(second)
        for name in ("count", "mean", "scatter", "log_mean_p"):
            np.testing.assert_allclose(getattr(merged, name), getattr(side, name), rtol=1e-12, atol=1e-12)


def test_pseudo_targets_never_see_their_own_row():
    evidence = naive.random_evidence(models=10, views=2, samples=60)
    for model, (against, members) in zip((7, 0, 3), evidence.pseudo_targets([7, 0, 3]), strict=True):
        others = np.delete(evidence.mask, model, axis=0)
        kept = np.flatnonzero(others.any(0) & ~others.all(0))
        np.testing.assert_array_equal(against.target, evidence.shadows[model][:, kept])
        np.testing.assert_array_equal(members, evidence.mask[model, kept])
        fresh = moments(np.delete(evidence.shadows, model, axis=0)[:, :, kept], others[:, kept])
        for side, expected in zip(against.sides, fresh, strict=True):
            for name in ("count", "mean", "scatter", "log_mean_p"):
                np.testing.assert_allclose(getattr(side, name), getattr(expected, name), rtol=1e-12, atol=1e-12)


def test_pseudo_targets_leave_out_samples_without_both_sides():
    evidence = naive.random_evidence(models=6, samples=4)
    mask = np.array(evidence.mask)
    mask[:, 1] = [True, False, False, False, False, False]
    [(against, members)] = Evidence(evidence.target, evidence.shadows, mask, evidence.labels).pseudo_targets([0])
    assert len(against.labels) == len(members) == 3
    np.testing.assert_array_equal(against.labels, evidence.labels[[0, 2, 3]])


@pytest.mark.parametrize(("value", "side", "advice"), [(False, "IN", "offline"), (True, "OUT", "target alone")])
def test_a_sample_without_a_side_is_named_when_the_side_is_asked_for(value, side, advice):
    evidence = naive.random_evidence(models=6)
    mask = np.array(evidence.mask)
    mask[:, 17] = value
    lacking = Evidence(evidence.target, evidence.shadows, mask, evidence.labels)
    with pytest.raises(InputError, match=f"sample 17 has no {side} model among 6; .*{advice}"):
        _ = lacking.out if value else lacking.in_
    _ = lacking.in_ if value else lacking.out


def change(name, array):
    return lambda parts: {**parts, name: array(parts[name])}


def with_nan(array, position):
    copy = np.array(array)
    copy[position] = np.nan
    return copy


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change("target", lambda x: x[0]), "target phi: has shape (40,), expected [view, sample]"),
        (
            change("shadows", lambda x: x[:, :1]),
            "shadows phi: has shape (12, 1, 40), expected [model, view, sample]",
        ),
        (change("mask", lambda x: x.astype(int)), "shadows mask: is int64 of shape (12, 40), expected bool"),
        (change("mask", lambda x: x[:, 1:]), "shadows mask: is bool of shape (12, 39), expected bool"),
        (change("labels", lambda x: x.astype(float)), "labels: are float64 of shape (40,), expected 40 integers"),
        (
            change("shadows", lambda x: np.ones(x.shape, int)),
            "logit margins of the shadows: are int64, expected float32 or float64",
        ),
        (change("labels", lambda x: x.tolist()), "labels: is a list, expected a NumPy array"),
        (
            change("target", lambda x: with_nan(x, (1, 5))),
            "logit margins of the target: view 1, sample 5 is nan, expected a finite",
        ),
        (
            change("shadows", lambda x: with_nan(x, (3, 0, 9))),
            "logit margins of the shadows: model 3, view 0, sample 9 is nan",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked_arrays")
def test_bad_arrays_are_refused_by_name(spoil, message):
    good = naive.random_evidence()
    parts = {"target": good.target, "shadows": good.shadows, "mask": good.mask, "labels": good.labels}
    with pytest.raises(InputError, match=re.escape(message)):
        evidence_module.Evidence(**spoil(parts))


def test_an_attack_cannot_change_what_the_others_are_given():
    evidence = naive.random_evidence()
    folded = replace(evidence, fold=np.zeros(len(evidence.labels), int))
    for array in (evidence.target, evidence.shadows, evidence.mask, evidence.labels, folded.fold):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_scores_of_joined_folds_are_those_of_each_fold_by_itself():
    """An attack that looks at one sample at a time cannot tell whether folds were joined."""
    whole = naive.random_evidence(models=9, views=2)
    fold = np.arange(len(whole.labels)) % 3
    evidence = Evidence(whole.target, whole.shadows, whole.mask, whole.labels, fold)
    parts = evidence.by_fold()
    assert [part.fold for part in parts] == [None] * 3
    attack = LiraOnline("per-example")
    joined = attack(evidence)
    for number, part in enumerate(parts):
        np.testing.assert_array_equal(part.shadows, whole.shadows[:, :, fold == number])
        np.testing.assert_array_equal(part.mask, whole.mask[:, fold == number])
        np.testing.assert_allclose(attack(part), joined[fold == number], rtol=1e-12)
    assert whole.by_fold() == [whole]


def test_folds_go_along_with_samples_and_targets():
    whole = naive.random_evidence()
    fold = np.arange(len(whole.labels)) % 2
    evidence = Evidence(whole.target, whole.shadows, whole.mask, whole.labels, fold)
    np.testing.assert_array_equal(evidence.take(np.array([3, 0])).fold, fold[[3, 0]])
    np.testing.assert_array_equal(evidence.with_target(whole.target + 1).fold, fold)


@pytest.mark.usefixtures("unchecked_arrays")
def test_folds_of_another_type_or_length_are_refused():
    whole = naive.random_evidence()
    with pytest.raises(InputError, match=r"fold: is float64 of shape \(2,\), expected \d+ integers"):
        Evidence(whole.target, whole.shadows, whole.mask, whole.labels, np.zeros(2))


@pytest.mark.parametrize("models", [8, 20, 70])
def test_what_attacks_share_equals_what_each_computes_alone(models: int):
    """Also after a pseudo-target's evidence took it from the whole, and on another target."""
    rng = np.random.default_rng(models)
    shadows = rng.normal(size=(models, 2, 700)) + np.arange(models)[:, None, None] / 10
    whole = Evidence(rng.normal(size=(2, 700)), shadows, rng.random((models, 700)) < 0.5, rng.integers(0, 3, 700))
    whole = whole.take(np.flatnonzero((whole.sides[0].count > 0) & (whole.sides[1].count > 0)))
    everything = standard_attacks()
    played = [against for against, _ in whole.pseudo_targets([3, 4])]
    assert (len(played[0].labels) < len(whole.labels)) == (models == 8), "few models leave samples out"
    for shared in (whole, *played, played[1].with_target(played[1].target * 2 + 1)):
        for attack in (*everything, *reversed(everything)):
            # Moments are merged in another order than computed afresh.
            alone = Evidence(shared.target, shared.shadows, shared.mask, shared.labels, _sides=shared.sides)
            np.testing.assert_array_equal(attack(shared), attack(alone), err_msg=attack.name)
