"""RMIA and BASE, against loops over single numbers."""

import math

import numpy as np
import pytest

from jaxmia.attacks.base import Base
from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.rmia import Rmia
from jaxmia.errors import InputError
from tests.attacks import naive
from tests.attacks.naive import log_p, mean, split


def naive_ratio(evidence, offline):
    """log p / pbar of each sample, averaged over views."""
    result = []
    for sample in range(len(evidence.labels)):
        logs = []
        for view in range(len(evidence.target)):
            p_in, p_out = (
                mean([math.exp(log_p(value)) for value in side]) if side else 0
                for side in split(evidence, view, sample)
            )
            pbar = (p_in + p_out) / 2 if offline is None else ((1 + offline) * p_out + 1 - offline) / 2
            logs.append(log_p(float(evidence.target[view, sample])) - math.log(pbar))
        result.append(mean(logs))
    return np.array(result)


@pytest.mark.parametrize("offline", [None, 0.0, 0.3, 1.0])
def test_base_equals_a_loop(offline):
    evidence = naive.random_evidence(views=3)
    np.testing.assert_allclose(Base(offline)(evidence), naive_ratio(evidence, offline), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("offline", [None, 0.3])
@pytest.mark.parametrize("gamma", [1.0, 1.2, 2.0])
def test_rmia_ranks_as_the_loop_over_pairs_with_ties_broken_by_the_ratio(offline, gamma):
    evidence = naive.random_evidence(samples=60, seed=4)
    ratio = naive_ratio(evidence, offline)
    share = [sum(a - b > math.log(gamma) for b in ratio) for a in ratio]
    scores = Rmia(gamma, offline)(evidence)
    assert sorted(range(60), key=lambda i: (share[i], ratio[i])) == list(np.argsort(scores))
    np.testing.assert_array_equal(np.floor(scores * 61), share)


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
    np.testing.assert_allclose(Base(0.5)(lacking), naive_ratio(lacking, 0.5), rtol=1e-9, atol=1e-12)
    with pytest.raises(InputError, match="sample 3 has no IN model"):
        Rmia()(lacking)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Rmia(gamma=0.5), r"attack.gamma: 0\.5 is not at least 1"),
        (lambda: Rmia(offline=1.5), r"attack.offline: 1\.5 is not between 0 and 1"),
        (lambda: Base(offline=-1), "attack.offline: -1 is not between 0 and 1"),
    ],
)
def test_bad_parameters_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
