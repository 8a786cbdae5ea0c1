"""Thresholds, calibration and LiRA, against loops over single numbers and closed forms."""

import math

import numpy as np
import pytest
from scipy.special import polygamma
from scipy.stats import norm

from jaxmia.attacks.calibrated import Calibrated
from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.lira import LiraOffline, LiraOnline
from jaxmia.attacks.threshold import Confidence, Loss, Margin
from jaxmia.attacks.variance import fit_spread, inverse_trigamma, trigamma_of_half
from jaxmia.errors import InputError
from jaxmia.evaluation.metrics import auc, tpr_at_fpr
from tests.attacks import naive
from tests.attacks.naive import log_normal, mean, split, sum_sq


def test_thresholds_equal_their_definitions_on_softmax():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 30, 5))
    labels = rng.integers(0, 5, 30)
    exact = np.zeros((3, 30))
    phi = np.zeros((2, 30))
    for view in range(2):
        for sample, label in enumerate(labels):
            z = logits[view, sample]
            p = math.exp(z[label]) / sum(math.exp(value) for value in z)
            phi[view, sample] = math.log(p / (1 - p))
            exact[:, sample] += np.array([math.log(p), p, math.log(p / (1 - p))]) / 2
    evidence = Evidence(phi, np.zeros((0, 2, 30)), np.zeros((0, 30), bool), labels)
    for attack, expected in zip((Loss(), Confidence(), Margin()), exact, strict=True):
        np.testing.assert_allclose(attack(evidence), expected, rtol=1e-9)


@pytest.mark.parametrize("views", ["identity", "mean", "each"])
def test_calibrated_equals_a_loop(views):
    evidence = naive.random_evidence(views=3)
    used = [0] if views == "identity" else [0, 1, 2]
    expected = [
        mean([evidence.target[view, sample] - mean(split(evidence, view, sample)[1]) for view in used])
        for sample in range(40)
    ]
    np.testing.assert_allclose(Calibrated(views)(evidence), expected, rtol=1e-10, atol=1e-12)


def naive_variances(evidence, view, mode):
    """IN and OUT variances of each sample in one view, by loops."""
    sides = [split(evidence, view, sample) for sample in range(len(evidence.labels))]
    rows = [[(sum_sq(values), len(values) - 1) for values in pair] for pair in sides]
    if mode == "global":
        pools = [sum(row[side][0] for row in rows) / sum(row[side][1] for row in rows) for side in (0, 1)]
        return [pools for _ in rows]
    if mode == "tied":
        return [[sum(s for s, _ in row) / sum(f for _, f in row)] * 2 for row in rows]
    return [[s / f for s, f in row] for row in rows]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("mode", ["per-example", "global", "tied"])
@pytest.mark.parametrize("views", ["identity", "each"])
def test_lira_online_equals_a_loop(mode, views, dtype):
    evidence = naive.random_evidence(dtype=dtype)
    used = [0] if views == "identity" else [0, 1]
    expected = np.zeros(40)
    for view in used:
        for sample, (in_, out) in enumerate(naive_variances(evidence, view, mode)):
            values = split(evidence, view, sample)
            x = float(evidence.target[view, sample])
            ratio = log_normal(x, mean(values[0]), in_) - log_normal(x, mean(values[1]), out)
            expected[sample] += ratio / len(used)
    np.testing.assert_allclose(LiraOnline(mode, views)(evidence), expected, rtol=1e-9, atol=1e-10)


def test_mean_of_views_equals_one_view_of_averaged_margins():
    evidence = naive.random_evidence(views=4)
    averaged = Evidence(
        evidence.target.mean(0, keepdims=True), evidence.shadows.mean(1, keepdims=True), evidence.mask, evidence.labels
    )
    for mode in ("per-example", "global", "tied", "shrunk"):
        np.testing.assert_allclose(LiraOnline(mode)(evidence), LiraOnline(mode)(averaged), rtol=1e-9, atol=1e-11)


def test_lira_of_two_known_gaussians_is_the_closed_form_ratio():
    """Shadows at `mean +- spread` have exactly that mean and variance (with their number instead of one less)."""
    n = 10_000
    mask = np.repeat([True, False], n)[:, None]
    signs = np.tile([1.0, -1.0], n)
    shadows = np.where(mask[:, 0], 2 + 0.5 * signs, 1 + 1.5 * signs)[:, None, None]
    for x in (-1.0, 0.3, 2.0, 4.0):
        evidence = Evidence(np.array([[x]]), shadows, mask, np.zeros(1, int))
        exact = norm.logpdf(x, 2, 0.5) - norm.logpdf(x, 1, 1.5)
        assert LiraOnline("per-example")(evidence)[0] == pytest.approx(exact, rel=1e-3, abs=1e-3)
        assert LiraOffline("per-example")(evidence)[0] == pytest.approx((x - 1) / 1.5, rel=1e-3)
        two_sided = LiraOffline("per-example", "two-sided")(evidence)[0]
        assert two_sided == pytest.approx(-norm.logpdf(x, 1, 1.5), rel=1e-3)


@pytest.mark.parametrize("mode", ["per-example", "global"])
def test_lira_offline_equals_a_loop_and_needs_no_in_model(mode):
    evidence = naive.random_evidence(views=1)
    mask = np.array(evidence.mask)
    mask[:, 4] = False
    evidence = Evidence(evidence.target, evidence.shadows, mask, evidence.labels)
    outs = [split(evidence, 0, sample)[1] for sample in range(40)]
    pool = sum(map(sum_sq, outs)) / sum(len(out) - 1 for out in outs)
    for sample, out in enumerate(outs):
        variance = pool if mode == "global" else sum_sq(out) / (len(out) - 1)
        expected = (evidence.target[0, sample] - mean(out)) / math.sqrt(variance)
        assert LiraOffline(mode)(evidence)[sample] == pytest.approx(expected, rel=1e-9)


def test_offline_ranks_as_the_published_probability():
    evidence = naive.random_evidence(views=1)
    scores = LiraOffline("per-example")(evidence)
    published = [
        1 - norm.sf(evidence.target[0, i], mean(out), math.sqrt(sum_sq(out) / (len(out) - 1)))
        for i, out in enumerate(split(evidence, 0, sample)[1] for sample in range(40))
    ]
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(published))


def test_one_in_model_takes_the_variance_of_all_samples():
    evidence = naive.random_evidence(models=8, views=1)
    mask = np.array(evidence.mask)
    mask[:, 0] = [True] + [False] * 7
    evidence = Evidence(evidence.target, evidence.shadows, mask, evidence.labels)
    ins = [split(evidence, 0, sample)[0] for sample in range(40)]
    pool = sum(map(sum_sq, ins)) / sum(len(values) - 1 for values in ins)
    out = split(evidence, 0, 0)[1]
    x = float(evidence.target[0, 0])
    expected = log_normal(x, ins[0][0], pool) - log_normal(x, mean(out), sum_sq(out) / (len(out) - 1))
    assert LiraOnline("per-example")(evidence)[0] == pytest.approx(expected, rel=1e-10)


def test_identical_shadows_give_finite_scores():
    mask = np.arange(6)[:, None] % 2 == np.zeros(3, int)
    shadows = np.where(mask, 2.0, 1.0)[:, None, :]
    evidence = Evidence(np.array([[1.0, 1.5, 2.0]]), shadows, mask, np.zeros(3, int))
    for mode in ("per-example", "global", "tied", "shrunk"):
        scores = LiraOnline(mode)(evidence)
        assert np.isfinite(scores).all()
        assert scores[0] < scores[1] == 0 < scores[2]


@pytest.mark.parametrize(("dof", "prior"), [(1, 4.0), (3, 4.0), (3, 20.0), (30, 20.0)])
def test_spread_prior_recovers_what_generated_the_variances(dof, prior):
    rng = np.random.default_rng(int(dof * prior))
    n = 200_000
    variance = 2.5 * prior / rng.chisquare(prior, n)
    spread = fit_spread((variance * rng.chisquare(dof, n))[None], np.full(n, float(dof)))
    assert spread.scale[0, 0] == pytest.approx(2.5, rel=0.03)
    assert spread.dof[0, 0] == pytest.approx(prior, rel=0.12)


def test_shrunk_variance_is_the_average_by_freedom():
    rng = np.random.default_rng(5)
    squares_ = rng.gamma(2, 1.0, (1, 500)) * 3
    dof = rng.integers(0, 9, 500).astype(float)
    spread = fit_spread(squares_, dof)
    scale, prior = spread.scale[0, 0], spread.dof[0, 0]
    assert np.isfinite(prior)
    expected = [(prior * scale + s) / (prior + f) for s, f in zip(squares_[0], dof, strict=True)]
    np.testing.assert_allclose(spread.posterior(squares_, dof)[0], expected, rtol=1e-12)


def test_equal_variances_shrink_all_the_way_to_the_global_one():
    rng = np.random.default_rng(1)
    n = 1000
    squares_ = np.full((1, n), 6.0) * rng.uniform(0.99, 1.01, n)
    spread = fit_spread(squares_, np.full(n, 6.0))
    assert np.isinf(spread.dof[0, 0])
    np.testing.assert_allclose(spread.posterior(squares_, np.full(n, 6.0)), squares_.mean() / 6, rtol=1e-12)


@pytest.mark.parametrize("x", [0.01, 0.5, 1.0, 7.0, 300.0])
def test_inverse_trigamma_inverts(x):
    series = sum(1 / (x + k) ** 2 for k in range(200_000)) + 1 / (x + 200_000)
    assert inverse_trigamma(series) == pytest.approx(x, rel=1e-6)


def test_trigamma_of_half_degrees_of_freedom_is_that_of_scipy():
    dof = np.random.default_rng(0).integers(1, 40, 100).astype(float)
    np.testing.assert_array_equal(trigamma_of_half(dof), polygamma(1, dof / 2))


def hard_evidence(models, seed, samples=4000):
    """Samples that differ in location and spread, with a gap of 1.2 spreads, and the target's membership."""
    rng = np.random.default_rng(seed)
    member = rng.random((models + 1, samples)) < 0.5
    spread = np.sqrt(6 / rng.chisquare(6, samples))
    phi = rng.normal(4, 3, samples) + spread * (rng.normal(size=member.shape) + 1.2 * member)
    return Evidence(phi[:1], phi[1:, None], member[1:], np.zeros(samples, int)), member[0]


def test_shrinking_beats_both_extremes_and_shadows_beat_thresholds():
    evidence, members = hard_evidence(32, seed=2)
    reached = {
        mode: tpr_at_fpr(LiraOnline(mode)(evidence), members, 0.05) for mode in ("per-example", "global", "shrunk")
    }
    assert reached["shrunk"] > max(reached["per-example"], reached["global"])
    assert auc(Margin()(evidence), members) < auc(Calibrated()(evidence), members)


def test_names_are_unique_and_tell_the_parameters():
    attacks = [LiraOnline(), LiraOnline("tied"), LiraOnline("tied", "each"), LiraOffline(), LiraOffline("global")]
    attacks += [LiraOffline("global", "two-sided"), LiraOffline("global", "two-sided", "identity"), Calibrated()]
    attacks += [Calibrated("identity"), Loss(), Confidence(), Margin()]
    names = [attack.name for attack in attacks]
    assert len(set(names)) == len(names)
    assert "lira-online-tied-each" in names
    assert "lira-offline-global-two-sided-identity" in names


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LiraOnline("own"), "^LiraOnline: variance: 'own' is none of per-example, global, tied, shrunk, tied"),  # type: ignore[arg-type]
        (lambda: LiraOffline("tied"), "^LiraOffline: variance: 'tied' is none of per-example, global, shrunk"),
        (lambda: LiraOffline(tail="left"), "^LiraOffline: tail: 'left' is none of one-sided, two-sided"),  # type: ignore[arg-type]
        (lambda: Calibrated("all"), "^Calibrated: views: 'all' is none of identity, mean, each, fisher"),  # type: ignore[arg-type]
    ],
)
def test_unknown_parameters_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
