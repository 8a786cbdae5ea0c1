import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score, roc_curve

from jaxmia.errors import InputError
from jaxmia.evaluation.intervals import clopper_pearson
from jaxmia.evaluation.metrics import auc, figures, figures_by_class, paired_difference, roc, tpr_at_fpr


def cases():
    """Scores with many ties, members first so that both kinds are there."""
    scores = st.lists(st.integers(-4, 4), min_size=2, max_size=30)
    return scores.flatmap(lambda values: st.tuples(st.just(values), st.integers(1, len(values) - 1)))


def unpack(case):
    values, members = case
    return np.array(values, float), np.arange(len(values)) < members


def brute_tpr(scores, members, fpr):
    best = 0.0
    for threshold in [*scores, math.inf]:
        alarms = sum(score >= threshold for score, member in zip(scores, members, strict=True) if not member)
        hits = sum(score >= threshold for score, member in zip(scores, members, strict=True) if member)
        if alarms <= fpr * (len(members) - members.sum()) + 1e-9:
            best = max(best, hits / members.sum())
    return best


def brute_auc(scores, members):
    pairs = [(a > b) + (a == b) / 2 for a in scores[members] for b in scores[~members]]
    return sum(pairs) / len(pairs)


@given(cases(), st.sampled_from([0.0001, 0.05, 0.1, 0.3, 0.5, 0.7, 0.99]))
def test_figures_equal_brute_force_with_ties(case, fpr):
    scores, members = unpack(case)
    assert tpr_at_fpr(scores, members, fpr) == pytest.approx(brute_tpr(scores, members, fpr))
    assert auc(scores, members) == pytest.approx(brute_auc(scores, members))


@given(cases())
def test_roc_and_auc_equal_scikit_learn(case):
    scores, members = unpack(case)
    ours = roc(scores, members)
    fpr, tpr, thresholds = roc_curve(members, scores, drop_intermediate=False)
    np.testing.assert_allclose(ours.fpr, fpr)
    np.testing.assert_allclose(ours.tpr, tpr)
    np.testing.assert_array_equal(ours.thresholds, thresholds)
    assert auc(scores, members) == pytest.approx(roc_auc_score(members, scores))


@given(cases())
@settings(max_examples=30)
def test_figures_depend_on_order_alone(case):
    scores, members = unpack(case)
    shuffled = np.random.default_rng(0).permutation(len(scores))
    for changed in (np.exp(scores), scores**3 - 7, np.arctan(scores)):
        assert auc(changed[shuffled], members[shuffled]) == pytest.approx(auc(scores, members))
        assert tpr_at_fpr(changed, members, 0.3) == tpr_at_fpr(scores, members, 0.3)


def test_tied_scores_move_together():
    scores = np.array([1.0, 1.0, 0.0, 0.0])
    members = np.array([True, False, True, False])
    assert tpr_at_fpr(scores, members, 0.49) == 0
    assert tpr_at_fpr(scores, members, 0.5) == 0.5
    assert auc(scores, members) == 0.5


def test_the_limit_is_counted_not_rounded():
    """0.07 * 100 is above 7 and 0.29 * 100 is below 29 in floating point; both limits are whole numbers of samples."""
    scores = np.arange(200, dtype=float)
    members = np.arange(200) % 2 == 0
    assert tpr_at_fpr(scores, members, 0.29) == 0.29
    assert tpr_at_fpr(scores, members, 0.07) == 0.07


def test_infinite_scores_are_scores():
    scores = np.array([np.inf, np.inf, 2.0, -np.inf])
    members = np.array([True, True, False, False])
    result = figures(scores, members, (0.5,), replicates=10)
    assert auc(scores, members) == 1
    assert result.tpr[0].threshold == 2.0
    json.dumps(figures(scores, members, (0.4, 0.5)).to_dict(), allow_nan=False)


def test_clopper_pearson_solves_its_definition():
    for successes, trials in ((3, 40), (0, 12), (12, 12), (700, 14_000)):
        low, high = clopper_pearson(successes, trials)
        if successes > 0:
            assert binom.sf(successes - 1, trials, low) == pytest.approx(0.025)
        else:
            assert low == 0
        if successes < trials:
            assert binom.cdf(successes, trials, high) == pytest.approx(0.025)
        else:
            assert high == 1


def gaussian(members, nonmembers, gap, seed):
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(gap, 1, members), rng.normal(0, 1, nonmembers)])
    return scores, np.arange(members + nonmembers) < members


def test_bootstrap_equals_a_loop_over_resampled_samples():
    scores, members = gaussian(60, 80, 1.0, 0)
    scores = np.round(scores, 1)  # ties
    rng = np.random.default_rng(1)
    tprs, aucs = [], []
    for _ in range(3000):
        hits = rng.choice(scores[members], members.sum())
        alarms = rng.choice(scores[~members], (~members).sum())
        drawn, truth = np.concatenate([hits, alarms]), np.arange(140) < 60
        tprs.append(tpr_at_fpr(drawn, truth, 0.1))
        aucs.append(auc(drawn, truth))
    result = figures(scores, members, (0.1,), replicates=3000)
    resampled = result.tpr[0].resampled
    assert resampled is not None
    assert [resampled.low, resampled.high] == pytest.approx(np.quantile(tprs, [0.025, 0.975]), abs=0.035)
    assert [result.auc.low, result.auc.high] == pytest.approx(np.quantile(aucs, [0.025, 0.975]), abs=0.01)


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """Of 300 draws from known Gaussians, the interval that moves the threshold holds the true TPR in about 95 %,
    and the one at a fixed threshold, which forgets the threshold's own error, less often."""
    true_tpr = norm.sf(norm.isf(0.05) - 1)
    true_auc = norm.cdf(1 / math.sqrt(2))
    covered = np.zeros(3)
    for seed in range(300):
        result = figures(*gaussian(400, 400, 1.0, seed), (0.05,), replicates=300)
        tpr = result.tpr[0]
        assert tpr.resampled is not None
        assert tpr.fixed is not None
        covered += [
            tpr.resampled.low <= true_tpr <= tpr.resampled.high,
            result.auc.low <= true_auc <= result.auc.high,
            tpr.fixed.low <= true_tpr <= tpr.fixed.high,
        ]
    assert 0.90 <= covered[0] / 300 <= 0.985
    assert 0.91 <= covered[1] / 300 <= 0.985
    assert covered[2] < covered[0]


def test_same_seed_same_interval_other_seed_another():
    scores, members = gaussian(50, 50, 1.0, 3)
    first, again, other = (figures(scores, members, (0.1,), replicates=100, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.auc != other.auc


def test_batches_do_not_change_the_point_values(monkeypatch):
    scores, members = gaussian(300, 300, 1.0, 3)
    whole = figures(scores, members, (0.1,), replicates=200)
    monkeypatch.setattr("jaxmia.evaluation.metrics.CELLS_PER_BATCH", 1000)
    chunked = figures(scores, members, (0.1,), replicates=200)
    assert whole.auc.value == chunked.auc.value
    assert whole.auc.low == pytest.approx(chunked.auc.low, abs=0.01)


def test_what_cannot_be_measured_is_not_reported():
    scores, members = gaussian(500, 500, 1.0, 3)
    low, exact = figures(scores, members, (0.001, 0.002), replicates=20).tpr
    assert (low.threshold, low.fixed, low.resampled) == (None, None, None)
    assert exact.fixed is not None
    assert figures(scores, members, (0.001,), replicates=20).to_dict()["tpr"][0]["fixed"] is None


def test_threshold_gives_the_reported_rates():
    scores, members = gaussian(300, 400, 1.0, 9)
    [figure] = figures(scores, members, (0.05,), replicates=20).tpr
    assert figure.threshold is not None
    assert figure.fixed is not None
    assert (scores[~members] >= figure.threshold).mean() <= 0.05
    assert (scores[members] >= figure.threshold).mean() == pytest.approx(figure.fixed.value)
    assert figure.fixed.value == pytest.approx(tpr_at_fpr(scores, members, 0.05))


def test_classes_are_figured_apart():
    scores, members = gaussian(200, 200, 1.0, 4)
    labels = np.arange(400) % 2 + 10 * (np.arange(400) == 0)
    result = figures_by_class(scores, members, labels, (0.1,), replicates=10)
    assert result[10] is None
    odd = result[1]
    assert odd is not None
    assert odd.auc.value == auc(scores[labels == 1], members[labels == 1])
    assert odd.members == 100


@pytest.mark.parametrize(
    ("scores", "members", "message"),
    [
        ([0.1, np.nan], [True, False], "scores: sample 1 is nan"),
        ([0.1, 0.2], [True, True], "membership: 2 members and 0 non-members"),
        ([0.1, 0.2], [True], r"shapes \(2,\) and \(1,\)"),
        (
            [0.1, 0.2, 0.3],
            [1, 0, -1],
            "membership: sample 2 is -1, expected 1 .* or 0 .*; leave out samples",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked_arrays")
def test_bad_input_is_refused(scores, members, message):
    with pytest.raises(InputError, match=message):
        roc(np.array(scores), np.array(members))


def test_a_limit_outside_zero_and_one_is_refused():
    with pytest.raises(InputError, match=r"fpr: 1\.5 is not between 0 and 1"):
        figures(np.array([0.0, 1.0]), np.array([False, True]), (1.5,))
    with pytest.raises(InputError, match=r"fpr: 5 is not between 0 and 1"):
        tpr_at_fpr(np.array([0.0, 1.0]), np.array([False, True]), 5)


def test_a_tpr_at_a_limit_that_was_not_computed_is_refused_not_left_out():
    found = figures(np.arange(200.0), np.arange(200) >= 100, (0.05, 0.001), replicates=10)
    assert found.at(0.001) is None
    with pytest.raises(InputError, match=r"fpr: 0\.2 is none of 0\.05, 0\.001"):
        found.at(0.2)


@pytest.mark.slow
def test_full_size_figures_take_seconds():
    scores, members = gaussian(14_000, 14_000, 0.2, 0)
    result = figures(scores, members)
    assert [figure.fpr for figure in result.tpr] == [0.05, 0.01, 0.001]
    assert all(figure.fixed is not None for figure in result.tpr)


def test_a_paired_difference_has_the_error_of_what_the_scores_do_not_share():
    """Mean scores of members, for which the error is known: that of the mean difference, however much both vary."""
    rng = np.random.default_rng(0)
    members, shared = np.arange(800) < 400, 100 * rng.normal(size=800)
    own = rng.normal(size=800)
    found = paired_difference(shared + own + 1, shared, members, lambda scores, known: float(scores[known].mean()))
    assert found.value == pytest.approx((own + 1)[:400].mean())
    reach = norm.ppf(0.975) * own[:400].std() / np.sqrt(400)
    assert found.high - found.value == pytest.approx(reach, rel=0.15)
    assert found.value - found.low == pytest.approx(reach, rel=0.15)
    with pytest.raises(InputError, match="expected some of both"):
        paired_difference(shared, own, members | True, auc)


@pytest.mark.parametrize("sign", [1, -1], ids=["all found", "all missed"])
def test_intervals_at_the_edges_have_a_width(sign: int):
    """Ten successes of ten leave a rate of 0.025 ** (1 / 10) or more possible, by the rule of Clopper and Pearson."""
    found = figures(sign * np.arange(30.0), np.arange(30) >= 20, (0.05,))
    tpr, least = found.at(0.05), 0.025**0.1
    low, high = (least, 1.0) if sign == 1 else (0.0, 1 - least)
    for estimate in (found.auc, tpr):
        assert estimate is not None
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((float(sign == 1), low, high))
