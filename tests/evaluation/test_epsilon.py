"""The lower bound on epsilon: its closed form, its validity, and the reasons for which there is none."""

import sys

import numpy as np
import pytest
from scipy.special import expit, logit

from jaxmia.data.pool import UNKNOWN
from jaxmia.evaluation.epsilon import EpsilonBound, epsilon_bound


def bound(scores: np.ndarray, membership: np.ndarray) -> EpsilonBound:
    return epsilon_bound(scores, membership, delta=1e-5, confidence=0.95)


def test_without_the_library_epsilon_is_null_and_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "jax_privacy", None)
    found = bound(np.arange(10.0), np.tile([1, 0], 5))
    assert found.lower is None
    assert "pip install jax-privacy` adds it" in found.reason


def test_epsilon_needs_members_and_nonmembers():
    for membership in ([1, 1, 0], [UNKNOWN] * 3, [1, 0, 0]):
        found = bound(np.arange(3.0), np.array(membership))
        assert found.lower is None
        assert "fewer than two public members or non-members" in found.reason


def test_epsilon_of_a_perfect_attack_is_the_closed_form():
    """All 200 guesses right: rejected are those epsilon whose chance of it is below a fifth of 5 %.

    The other four bounds are those of 100, 50, 25 and 12 guesses.
    """
    members = np.arange(400) % 2
    found = bound(10.0 * members + np.linspace(0, 1, 400), members)
    assert found.reason is None
    assert found.lower == pytest.approx(logit(0.01 ** (1 / 200)), rel=0.02)


def test_epsilon_of_scores_of_chance_is_almost_nothing(rng: np.random.Generator):
    bounds = [bound(rng.normal(size=400), rng.integers(0, 2, 400)).lower for _ in range(20)]
    assert np.mean(np.array(bounds) > 0) <= 0.2


def test_epsilon_does_not_depend_on_the_order_of_the_samples(rng: np.random.Generator):
    members = rng.integers(0, 2, 400)
    scores = rng.normal(size=400) + members
    bounds = {bound(scores[order], members[order]).lower for order in (rng.permutation(400) for _ in range(4))}
    assert len(bounds) == 1
    assert min(bounds) > 0.3


@pytest.mark.parametrize("epsilon", [1.0, 2.0])
def test_epsilon_of_randomised_response_is_rarely_above_the_truth(rng: np.random.Generator, epsilon: float):
    """Each membership is told right with the probability that epsilon allows, in a random order: 5 % may be above."""
    bounds = []
    for _ in range(60):
        members = rng.random(100) < 0.5
        told = np.where(rng.random(100) < expit(epsilon), members, ~members)
        bounds.append(bound(told + rng.random(100), members.astype(int)).lower or 0.0)
    assert np.mean(np.array(bounds) > epsilon) <= 0.12
    assert np.mean(bounds) > epsilon / 8


@pytest.mark.parametrize("share", [0.1, 0.65, 0.9])
def test_uneven_numbers_of_members_bound_nothing_with_scores_of_chance(rng: np.random.Generator, share: float):
    """Guessing the more frequent membership is right more often than a fair coin."""
    bounds = [bound(rng.normal(size=400), (rng.random(400) < share).astype(int)) for _ in range(10)]
    assert all(found.lower is None for found in bounds)
    assert all("of 400 public samples are members" in (found.reason or "") for found in bounds)


@pytest.mark.parametrize("confidence", [0.5, 0.99])
def test_the_closed_form_holds_at_the_confidence_that_is_given(confidence: float):
    members = np.arange(400) % 2
    found = epsilon_bound(10.0 * members + np.linspace(0, 1, 400), members, delta=1e-9, confidence=confidence)
    assert (found.delta, found.confidence) == (1e-9, confidence)
    assert found.lower == pytest.approx(logit(((1 - confidence) / 5) ** (1 / 200)), rel=0.02)


def test_a_larger_delta_excuses_more_and_so_bounds_less():
    """Delta times the number of samples is what a mechanism may give away for nothing."""
    members = np.arange(400) % 2
    scores = 10.0 * members + np.linspace(0, 1, 400)
    lower = [epsilon_bound(scores, members, delta, 0.95).lower for delta in (1e-6, 1e-4, 1e-3)]
    assert lower == sorted(lower, reverse=True)
    assert lower[0] - lower[-1] > 0.5


def test_private_samples_change_nothing(rng: np.random.Generator):
    members = rng.integers(0, 2, 200)
    scores = rng.normal(size=200) + members
    with_private = bound(np.concatenate([scores, np.full(50, 9.0)]), np.concatenate([members, np.full(50, UNKNOWN)]))
    assert with_private == bound(scores, members)
