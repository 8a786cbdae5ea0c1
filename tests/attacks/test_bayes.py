"""The attacks with priors, against numerical integration over what the priors leave unknown."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import invgamma, multivariate_normal, norm, t

from jaxmia.attacks import adaptive as adaptive_module
from jaxmia.attacks import multivariate as multivariate_module
from jaxmia.attacks.adaptive import Adaptive
from jaxmia.attacks.bavaria import Bavaria, fit_center
from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.gap import GapPrior, fit_gap
from jaxmia.attacks.lira import LiraOnline
from jaxmia.attacks.multivariate import LiraMultivariate
from jaxmia.attacks.rmia import Rmia
from jaxmia.attacks.signal import Fit, signals
from jaxmia.attacks.student import log_student
from jaxmia.attacks.variance import fit_spread
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


def priors(evidence: Evidence) -> list[tuple[float, ...]]:
    """Degrees of freedom, scale, center and weight of the prior of IN and of OUT margins."""
    found = []
    for fit in signals(evidence, "mean", evidence.in_, evidence.out)[1:]:
        spread, center = fit_spread(fit.sum_sq, fit.dof), fit_center(fit)
        found.append(tuple(array.item() for array in (spread.dof, spread.scale, *center)))
    return found


def test_bavaria_equals_the_integral_over_the_variance():
    evidence = naive.random_evidence(models=8, views=1)
    scores = Bavaria("student")(evidence)

    def density(values, prior):
        """Joint density of the values: their mean integrated out in closed form, their variance by quadrature."""
        dof, scale, center, weight = prior
        shape = np.eye(len(values)) + 1 / weight

        def given(variance):
            likely = invgamma.pdf(variance, dof / 2, scale=dof * scale / 2)
            return likely * multivariate_normal.pdf(values, np.full(len(values), center), variance * shape)

        return quad(given, 0, np.inf, limit=200)[0]

    for sample in range(6):
        x = float(evidence.target[0, sample])
        in_, out = (
            math.log(density([*values, x], prior) / density(values, prior))
            for values, prior in zip(split(evidence, 0, sample), priors(evidence), strict=True)
        )
        assert scores[sample] == pytest.approx(in_ - out, abs=1e-4)


def test_bavaria_normal_equals_a_loop():
    evidence = naive.random_evidence(models=8, views=1)
    scores = Bavaria("normal")(evidence)
    for sample in range(40):
        logs = []
        for values, (dof, scale, center, weight) in zip(split(evidence, 0, sample), priors(evidence), strict=True):
            n, m = len(values), mean(values)
            beta = dof * scale / 2 + sum_sq(values) / 2 + weight * n * (m - center) ** 2 / (2 * (weight + n))
            variance, total = beta / (dof / 2 + n / 2), weight + n
            posterior_mean = (weight * center + n * m) / total
            logs.append(naive.log_normal(float(evidence.target[0, sample]), posterior_mean, variance))
        assert scores[sample] == pytest.approx(logs[0] - logs[1], rel=1e-9, abs=1e-10)


def test_center_prior_recovers_what_generated_the_means():
    rng = np.random.default_rng(0)
    count = rng.integers(2, 9, 100_000).astype(float)
    mean_ = 3 + np.sqrt(0.5) * rng.normal(size=count.size) + rng.normal(size=count.size) / np.sqrt(count)
    fit = Fit(count, mean_[None], rng.chisquare(count - 1)[None])
    center, weight = fit_center(fit)
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
    known = adaptive_module.Variances(np.full(5, variance), np.full(5, multiple), np.full(5, np.inf))
    monkeypatch.setattr(adaptive_module, "fit_variances", lambda *_: known)
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


def test_multivariate_equals_the_joint_gaussian_of_means_and_margin():
    """A flat prior for the OUT mean and a Gaussian one for the gap, solved by matrices, sample after sample."""
    evidence = naive.random_evidence(models=9, views=3)
    in_, out = evidence.sides
    level = multivariate_module._level(in_, out)
    directions = multivariate_module._directions(in_, out, level)
    fits = [multivariate_module._projected(side, directions, level) for side in (in_, out)]
    variances = multivariate_module._variances(*fits)
    expected = np.zeros(40)
    for d, direction in enumerate(directions):
        z = [[[float(direction @ row) for row in _models(evidence, n, side)] for n in range(40)] for side in (0, 1)]
        z = [[np.array(values) / math.sqrt(level[n]) for n, values in enumerate(side)] for side in z]
        gaps = np.array([values.mean() - others.mean() for values, others in zip(*z, strict=True)])
        errors = sum(variances[side][d] / [len(values) for values in z[side]] for side in (0, 1))
        real = max(gaps.var() - errors.mean(), 1e-9)
        for n in range(40):
            noise_in, noise_out = variances[0][d, n], variances[1][d, n]
            weights = np.array([len(z[0][n]) / noise_in, len(z[1][n]) / noise_out])
            rows = np.array([[1.0, 1.0], [1.0, 0.0]])  # what an IN and an OUT margin measure of (OUT mean, gap)
            precision = rows.T @ (weights[:, None] * rows) + np.diag([0, 1 / real])
            evidence_sum = rows.T @ (weights * [z[0][n].mean(), z[1][n].mean()]) + [0, gaps.mean() / real]
            center = np.linalg.solve(precision, evidence_sum)
            phi = float(direction @ evidence.target[:, n]) / math.sqrt(level[n])
            for row, noise, sign in zip(rows, (noise_in, noise_out), (1, -1), strict=True):
                spread = math.sqrt(noise + row @ np.linalg.solve(precision, row))
                expected[n] += sign * norm.logpdf(phi, row @ center, spread)
    np.testing.assert_allclose(LiraMultivariate()(evidence), expected, rtol=1e-6, atol=1e-6)


def _models(evidence: Evidence, sample: int, side: int) -> np.ndarray:
    """Margins of the IN (0) or OUT (1) models of a sample, `[model, view]`."""
    return np.array([split(evidence, view, sample)[side] for view in range(len(evidence.target))]).T


def test_in_the_directions_noise_is_white_and_gaps_are_uncorrelated():
    evidence = naive.random_evidence(models=20, views=4, samples=300)
    in_, out = evidence.sides
    level = multivariate_module._level(in_, out)
    directions = multivariate_module._directions(in_, out, level)
    noise = ((in_.scatter + out.scatter) / level).sum(-1) / (in_.count + out.count - 2).sum()
    np.testing.assert_allclose(directions @ noise @ directions.T, np.eye(4), atol=1e-4)
    gaps = directions @ np.cov((in_.mean - out.mean) / np.sqrt(level)) @ directions.T
    np.testing.assert_allclose(gaps, np.diag(np.diag(gaps)), atol=1e-9)


def eighteen_views(seed: int) -> tuple[Evidence, np.ndarray]:
    """Sixteen models, whose margins in 18 views have noise and a gap in common: further views tell little more."""
    rng = np.random.default_rng(seed)
    views, samples = 18, 3000
    member = rng.random((17, samples)) < 0.5
    spread = np.sqrt(6 / rng.chisquare(6, samples))
    gap = spread * rng.gamma(1.0, 0.6, samples)
    noise = 0.9 * rng.normal(size=(17, 1, samples)) + 0.45 * rng.normal(size=(17, views, samples))
    phi = rng.normal(3, 2, samples) + spread * noise + gap * member[:, None]
    kept = np.flatnonzero(member[1:].any(0) & ~member[1:].all(0))
    evidence = Evidence(phi[0], phi[1:], member[1:], np.zeros(samples, int)).take(kept)
    return evidence, member[0, kept]


@pytest.mark.parametrize("seed", [0, 1])
def test_multivariate_does_not_lose_by_views_that_few_models_carry(seed: int):
    """With eight models a side, 18 views are about as good as two and better than their mean, fitted alone."""
    evidence, members = eighteen_views(seed)
    two = Evidence(evidence.target[:2], evidence.shadows[:, :2], evidence.mask, evidence.labels)
    many = auc(LiraMultivariate()(evidence), members)
    assert many > auc(LiraMultivariate()(two), members) - 0.005
    assert many > auc(LiraOnline("shrunk")(evidence), members) + 0.005


def test_a_view_that_repeats_another_does_not_change_the_multivariate_attack():
    evidence = naive.random_evidence(models=14, views=2, samples=200)
    order = [0, 1, 1]
    repeated = Evidence(evidence.target[order], evidence.shadows[:, order], evidence.mask, evidence.labels)
    correlation = np.corrcoef(LiraMultivariate()(repeated), LiraMultivariate()(evidence))[0, 1]
    assert correlation > 0.99


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
