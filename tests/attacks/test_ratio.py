"""RMIA and BASE, against loops over single numbers."""

import math

import numpy as np
import pytest

from jaxmia.attacks.base import Base
from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.fusion import RankFusion
from jaxmia.attacks.rmia import Rmia
from jaxmia.errors import InputError
from tests.attacks import naive
from tests.attacks.naive import log_p, mean, split


def naive_ratios(evidence, offline):
    """log p / pbar, `[view, sample]`."""
    result = []
    for view in range(len(evidence.target)):
        logs = []
        for sample in range(len(evidence.labels)):
            p_in, p_out = (
                mean([math.exp(log_p(value)) for value in side]) if side else 0
                for side in split(evidence, view, sample)
            )
            pbar = (p_in + p_out) / 2 if offline is None else ((1 + offline) * p_out + 1 - offline) / 2
            logs.append(log_p(float(evidence.target[view, sample])) - math.log(pbar))
        result.append(logs)
    return np.array(result)


@pytest.mark.parametrize("offline", [None, 0.0, 0.3, 1.0])
def test_base_equals_a_loop(offline):
    evidence = naive.random_evidence(views=3)
    np.testing.assert_allclose(Base(offline)(evidence), naive_ratios(evidence, offline).mean(0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("offline", [None, 0.95])
@pytest.mark.parametrize("views", ["mean", "identity"])
def test_a_temperature_softens_the_signal_before_the_ratio(views, offline):
    """As if there were one view, the joined margin, and that divided by the temperature."""
    evidence = naive.random_evidence(views=3)
    joined = [
        phi.mean(-2, keepdims=True) if views == "mean" else phi[..., :1, :]
        for phi in (evidence.target, evidence.shadows)
    ]
    softened = Evidence(joined[0] / 2.5, joined[1] / 2.5, evidence.mask, evidence.labels)
    expected = naive_ratios(softened, offline)[0]
    np.testing.assert_allclose(Base(offline, 2.5, views)(evidence), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("offline", [None, 0.3])
@pytest.mark.parametrize("gamma", [1.0, 1.2, 2.0])
def test_rmia_ranks_as_the_loop_over_pairs_with_ties_broken_by_the_ratio(views, offline, gamma):
    evidence = naive.random_evidence(views=views, samples=60, seed=4)
    ratios = naive_ratios(evidence, offline)
    beaten = [sum(ratio[x] - ratio[z] > math.log(gamma) for ratio in ratios for z in range(60)) for x in range(60)]
    mean_ratio = ratios.mean(0)
    scores = Rmia(gamma, offline)(evidence)
    assert sorted(range(60), key=lambda x: (beaten[x], mean_ratio[x])) == list(np.argsort(scores))
    np.testing.assert_array_equal(np.floor(scores * 61 * views), beaten)


def test_rmia_ranks_as_base_with_one_view_and_heeds_no_outlying_view_with_two():
    one = naive.random_evidence(views=1, samples=60, seed=4)
    assert list(np.argsort(Rmia()(one))) == list(np.argsort(Base()(one)))
    two = naive.random_evidence(views=2, samples=60, seed=4)
    outlying = two.target.copy()
    outlying[0, 7] = -1000
    changed = two.with_target(outlying)
    assert Base()(changed)[7] < -100
    assert Rmia()(changed)[7] == pytest.approx(Rmia()(two)[7], abs=0.5 + 1 / 61)


def test_rmia_ranks_the_same_with_a_view_that_repeats_the_only_one():
    one = naive.random_evidence(views=1, samples=60, seed=4)
    two = Evidence(np.repeat(one.target, 2, 0), np.repeat(one.shadows, 2, 1), one.mask, one.labels)
    assert list(np.argsort(Rmia()(two))) == list(np.argsort(Rmia()(one)))


@pytest.mark.parametrize("temperature", [0, -1, float("inf"), float("nan")])
def test_a_temperature_is_positive(temperature: float):
    with pytest.raises(InputError, match=r"^Base: temperature: .* is not above 0 and finite"):
        Base(temperature=temperature)


def test_gamma_moves_the_share():
    evidence = naive.random_evidence(samples=60, seed=4)
    assert (Rmia(2.0)(evidence) <= Rmia(1.0)(evidence)).all()
    assert (Rmia(2.0)(evidence) < Rmia(1.0)(evidence)).any()


def test_extreme_margins_give_finite_ordered_scores():
    mask = np.arange(4)[:, None] % 2 == np.zeros(3, int)
    shadows = np.full((4, 1, 3), -800.0)
    evidence = Evidence(np.array([[-900.0, -700.0, 40.0]]), shadows, mask, np.zeros(3, int))
    for attack in (Base(), Base(1.0), Base(0.5), Rmia()):
        scores = attack(evidence)
        assert np.isfinite(scores).all()
        assert scores[0] < scores[1] < scores[2]
    np.testing.assert_allclose(Base()(evidence), [-100, 100, 800], rtol=1e-12)


def test_offline_needs_no_in_model_and_online_does():
    evidence = naive.random_evidence(models=6)
    mask = np.array(evidence.mask)
    mask[:, 3] = False
    lacking = Evidence(evidence.target, evidence.shadows, mask, evidence.labels)
    np.testing.assert_allclose(Base(0.5)(lacking), naive_ratios(lacking, 0.5).mean(0), rtol=1e-9, atol=1e-12)
    with pytest.raises(InputError, match="sample 3 has no IN model"):
        Rmia()(lacking)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Rmia(gamma=0.5), r"^Rmia: gamma: 0\.5 is not at least 1"),
        (lambda: Rmia(offline=1.5), r"^Rmia: offline: 1\.5 is not between 0 and 1"),
        (lambda: Base(offline=-1), "^Base: offline: -1 is not between 0 and 1"),
        (lambda: Base(temperature=0), "^Base: temperature: 0 is not above 0 and finite"),
        (lambda: RankFusion(()), "^RankFusion: attacks: is empty"),
    ],
)
def test_bad_parameters_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
