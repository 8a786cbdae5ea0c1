"""The attacks with priors, against numerical integration over what the priors leave unknown."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import invgamma, multivariate_normal, norm, t

from jaxmia.attacks import adaptive as adaptive_module
from jaxmia.attacks import bavaria as bavaria_module
from jaxmia.attacks import multivariate as multivariate_module
from jaxmia.attacks.adaptive import Adaptive
from jaxmia.attacks.bavaria import Bavaria
from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.gap import GapPrior, fit_gap
from jaxmia.attacks.lira import LiraOnline
from jaxmia.attacks.multivariate import LiraMultivariate
from jaxmia.attacks.rmia import Rmia
from jaxmia.attacks.student import log_student
from jaxmia.attacks.variance import Spread
from jaxmia.errors import InputError
from jaxmia.evaluation.metrics import auc, tpr_at_fpr
from tests.attacks import naive
from tests.attacks.naive import mean, split, sum_sq
from tests.attacks.test_basic import hard_evidence


def test_student_equals_scipy_and_turns_into_the_gaussian():
    x = np.linspace(-30, 30, 13)
    for dof in (0.7, 5.0, 300.0):
        exact = t.logpdf(x, dof, 1.5, 2.0)
        np.testing.assert_allclose(log_student(x, np.array(1.5), np.array(4.0), np.array(dof)), exact, rtol=1e-9)
    gaussian = log_student(x, np.array(1.5), np.array(4.0), np.array(np.inf))
    np.testing.assert_allclose(gaussian, norm.logpdf(x, 1.5, 2.0), rtol=2e-4)


def test_bavaria_equals_the_integral_over_the_variance(monkeypatch):
    evidence = naive.random_evidence(models=8, views=1, samples=6)
    dof, scale, center, weight = 5.0, 0.8, 2.0, 0.4
    spread = Spread(np.array([[scale]]), np.array([[dof]]))
    monkeypatch.setattr(bavaria_module, "fit_spread", lambda *_: spread)
    monkeypatch.setattr(bavaria_module, "_fit_center", lambda _: (np.array([[center]]), np.array([[weight]])))
    scores = Bavaria("student")(evidence)

    def density(values):
        """Joint density of the values: their mean integrated out in closed form, their variance by quadrature."""
        shape = np.eye(len(values)) + 1 / weight

        def given(variance):
            prior = invgamma.pdf(variance, dof / 2, scale=dof * scale / 2)
            return prior * multivariate_normal.pdf(values, np.full(len(values), center), variance * shape)

        return quad(given, 0, np.inf, limit=200)[0]

    for sample in range(6):
        x = float(evidence.target[0, sample])
        in_, out = (math.log(density([*values, x]) / density(values)) for values in split(evidence, 0, sample))
        assert scores[sample] == pytest.approx(in_ - out, abs=1e-4)


def test_bavaria_normal_equals_a_loop(monkeypatch):
    evidence = naive.random_evidence(models=8, views=1)
    monkeypatch.setattr(bavaria_module, "fit_spread", lambda *_: Spread(np.array([[0.8]]), np.array([[5.0]])))
    monkeypatch.setattr(bavaria_module, "_fit_center", lambda _: (np.array([[2.0]]), np.array([[0.4]])))
    scores = Bavaria("normal")(evidence)
    for sample in range(40):
        logs = []
        for values in split(evidence, 0, sample):
            n, m = len(values), mean(values)
            beta = 5 * 0.8 / 2 + sum_sq(values) / 2 + 0.4 * n * (m - 2) ** 2 / (2 * (0.4 + n))
            variance = beta / (5 / 2 + n / 2)
            logs.append(naive.log_normal(float(evidence.target[0, sample]), (0.4 * 2 + n * m) / (0.4 + n), variance))
        assert scores[sample] == pytest.approx(logs[0] - logs[1], rel=1e-9, abs=1e-10)


def test_center_prior_recovers_what_generated_the_means():
    rng = np.random.default_rng(0)
    count = rng.integers(2, 9, 100_000).astype(float)
    mean_ = 3 + np.sqrt(0.5) * rng.normal(size=count.size) + rng.normal(size=count.size) / np.sqrt(count)
    fit = bavaria_module.Fit(count, mean_[None], rng.chisquare(count - 1)[None])
    center, weight = bavaria_module._fit_center(fit)
    assert center[0, 0] == pytest.approx(3, abs=0.02)
    assert weight[0, 0] == pytest.approx(2, rel=0.03)


PRIOR = GapPrior(np.array([0.6, 0.3, 0.1]), np.array([0.2, 1.0, 3.0]), np.array([0.05, 0.3, 2.0]))


@pytest.mark.parametrize("lacking", [None, "in", "out"])
def test_adaptive_equals_the_integral_over_mean_and_gap(monkeypatch, lacking):
    """With known spreads, the predictive is an integral over the OUT mean and the gap, here done by brute force."""
    evidence = naive.random_evidence(models=7, views=1, samples=5)
    mask = np.array(evidence.mask)
    if lacking:
        mask[:, 2] = lacking == "out"
    evidence = Evidence(evidence.target, evidence.shadows, mask, evidence.labels)
    variance, multiple = 1.7, 0.6
    known = adaptive_module._Scale(np.full(5, variance), np.full(5, multiple), np.full(5, np.inf))
    monkeypatch.setattr(adaptive_module, "_scale", lambda *_: known)
    monkeypatch.setattr(adaptive_module, "fit_gap", lambda *_: PRIOR)
    monkeypatch.setattr(adaptive_module, "TAILS", (np.inf,))
    scores = Adaptive()(evidence)
    spread = math.sqrt(variance)
    means, gaps = np.linspace(-25, 35, 1501)[:, None], np.linspace(-4, 12, 801)[None]
    density = sum(
        w * norm.pdf(gaps, m, math.sqrt(v)) for w, m, v in zip(PRIOR.weight, PRIOR.mean, PRIOR.variance, strict=True)
    )
    for sample in range(5):
        in_, out = split(evidence, 0, sample)
        log_weight = np.log(density) + np.zeros_like(means)
        for value in out:
            log_weight = log_weight + norm.logpdf(value, means, spread)
        for value in in_:
            log_weight = log_weight + norm.logpdf(value, means + spread * gaps, spread * math.sqrt(multiple))
        weight = np.exp(log_weight - log_weight.max())
        x = float(evidence.target[0, sample])
        member = (weight * norm.pdf(x, means + spread * gaps, spread * math.sqrt(multiple))).sum()
        non_member = (weight * norm.pdf(x, means, spread)).sum()
        assert scores[sample] == pytest.approx(math.log(member / non_member), abs=2e-3)


def test_adaptive_turns_into_per_example_lira_with_many_models():
    evidence, _ = hard_evidence(1500, seed=0, samples=600)
    ours, lira = Adaptive()(evidence), LiraOnline("per-example")(evidence)
    near = np.abs(lira) < 3
    assert np.quantile(np.abs(ours - lira)[near], 0.99) < 0.3
    assert np.corrcoef(ours[near], lira[near])[0, 1] > 0.995


@pytest.mark.parametrize("models", [8, 32])
def test_adaptive_beats_fixed_variance_lira_and_rmia_with_few_models(models):
    gains = []
    for seed in range(4):
        evidence, members = hard_evidence(models, seed, samples=6000)
        kept = np.flatnonzero(evidence.mask.any(0) & ~evidence.mask.all(0))
        evidence, members = evidence.take(kept), members[kept]
        ours, *peers = (
            tpr_at_fpr(attack(evidence), members, 0.05) for attack in (Adaptive(), LiraOnline("global"), Rmia())
        )
        gains.append(ours - max(peers))
    assert np.mean(gains) > 2 * np.std(gains, ddof=1) / 2 > 0


def test_adaptive_scores_samples_without_a_side_and_refuses_none_at_all():
    evidence, members = hard_evidence(4, seed=1)
    lacking = ~(evidence.mask.any(0) & ~evidence.mask.all(0))
    scores = Adaptive()(evidence)
    assert np.isfinite(scores).all()
    assert auc(scores[lacking], members[lacking]) > 0.6
    for value, side in ((False, "IN"), (True, "OUT")):
        mask = np.full(evidence.mask.shape, value)
        with pytest.raises(InputError, match=f"has no {side} model"):
            Adaptive()(Evidence(evidence.target, evidence.shadows, mask, evidence.labels))


def test_adaptive_sees_heavy_tails_without_labels(monkeypatch):
    rng = np.random.default_rng(0)
    member = rng.random((129, 8000)) < 0.5
    phi = rng.normal(4, 3, 8000) + rng.standard_t(3, member.shape) + 2 * member
    evidence = Evidence(phi[:1], phi[1:, None], member[1:], np.zeros(8000, int))
    aware = tpr_at_fpr(Adaptive()(evidence), member[0], 0.01)
    monkeypatch.setattr(adaptive_module, "TAILS", (np.inf,))
    assert aware > tpr_at_fpr(Adaptive()(evidence), member[0], 0.01) + 0.02


def test_gap_prior_is_no_gap_where_none_was_measured():
    prior = fit_gap(np.empty(0), np.empty(0))
    assert prior.weight @ prior.mean == 0
    assert prior.variance.max() < 1e-3


def test_gap_prior_takes_the_errors_out():
    rng = np.random.default_rng(2)
    n = 4000
    large = rng.random(n) < 0.2
    truth = np.where(large, rng.normal(3, 0.5, n), rng.normal(0.3, 0.2, n))
    precision = rng.choice([2.0, 8.0], n)
    prior = fit_gap(truth + rng.normal(size=n) / np.sqrt(precision), precision)
    first = prior.weight @ prior.mean
    second = prior.weight @ (prior.mean**2 + prior.variance)
    assert prior.weight.sum() == pytest.approx(1)
    assert first == pytest.approx(truth.mean(), abs=0.05)
    assert second - first**2 == pytest.approx(truth.var(), rel=0.08)
    log_weight, center, variance = prior.posterior(np.array([3.0, 0.0]), np.array([8.0, 0.0]))
    estimate = (np.exp(log_weight) * center).sum(0)
    kinds = np.array([0.8 * norm.pdf(3, 0.3, np.sqrt(0.04 + 1 / 8)), 0.2 * norm.pdf(3, 3, np.sqrt(0.25 + 1 / 8))])
    shrunk = np.array([(0.3 / 0.04 + 3 * 8) / (1 / 0.04 + 8), 3])
    assert estimate[0] == pytest.approx(kinds @ shrunk / kinds.sum(), abs=0.1)
    assert estimate[1] == pytest.approx(first)
    np.testing.assert_allclose(np.exp(log_weight[:, 1]), prior.weight)
    np.testing.assert_allclose(variance[:, 1], prior.variance)


def test_multivariate_equals_scipy_on_loops(monkeypatch):
    weight = 6.0
    monkeypatch.setattr(multivariate_module, "_prior_weight", lambda *_: weight)
    evidence = naive.random_evidence(models=9, views=3)
    level = multivariate_module._level(*evidence.sides)
    scores = LiraMultivariate()(evidence)
    sides = []
    for which in (0, 1):
        vectors = [np.array([split(evidence, v, i)[which] for v in range(3)]).T for i in range(40)]
        scatters = [(x - x.mean(0)).T @ (x - x.mean(0)) for x in vectors]
        typical = sum(s / v for s, v in zip(scatters, level, strict=True)) / sum(len(x) - 1 for x in vectors)
        logs = []
        for x, scatter, v, phi in zip(vectors, scatters, level, evidence.target.T, strict=True):
            covariance = (weight * v * typical + scatter) / (weight + len(x) - 1) * (1 + 1 / len(x))
            logs.append(multivariate_normal.logpdf(phi, x.mean(0), covariance))
        sides.append(np.array(logs))
    np.testing.assert_allclose(scores, sides[0] - sides[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dof", [8, 70])
def test_prior_weight_is_the_one_that_generated_the_covariances(dof):
    rng = np.random.default_rng(1)
    center = np.array([[1.0, 0.7], [0.7, 2.0]])
    scatters = []
    for _ in range(2000):
        normal = rng.multivariate_normal(np.zeros(2), np.linalg.inv((dof - 3) * center), dof)
        covariance = np.linalg.inv(normal.T @ normal)
        x = rng.multivariate_normal(np.zeros(2), covariance, 10)
        scatters.append(x.T @ x)
    found = multivariate_module._prior_weight(
        np.broadcast_to(center, (2000, 2, 2)), np.array(scatters), np.full(2000, 10.0)
    )
    assert (dof - 3) / 2 < found < 2 * (dof - 3)


def test_multivariate_uses_what_the_views_say_together():
    """The second view holds the first one's noise and no signal: worthless alone, it cleans the first."""
    rng = np.random.default_rng(0)
    samples, models = 3000, 64
    member = rng.random((models + 1, samples)) < 0.5
    noise = rng.normal(size=member.shape)
    phi = np.stack([noise + member, noise + 0.3 * rng.normal(size=member.shape)], axis=1)
    evidence = Evidence(phi[0], phi[1:], member[1:], np.zeros(samples, int))
    assert auc(LiraMultivariate()(evidence), member[0]) > 0.9 > auc(LiraOnline()(evidence), member[0])
    assert auc(Adaptive("fisher")(evidence), member[0]) > 0.9
