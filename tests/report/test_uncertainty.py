import numpy as np
import pytest
from scipy import stats

from jaxmia.evaluation.intervals import next_target
from jaxmia.evaluation.metrics import tpr_at_fpr
from jaxmia.report.uncertainty import mean_of, tpr_band, tpr_curve


def test_the_figure_is_the_one_of_the_metrics_with_ties_and_any_limit(rng: np.random.Generator):
    for _ in range(50):
        scores = rng.integers(0, 12, 60).astype(float)
        members = np.arange(60) % 3 == 0
        fprs = [0.001, 0.025, 0.1, 0.5, 0.999, 1.0]
        found = [estimate.value for estimate in tpr_band(scores, members, fprs)]
        assert found == pytest.approx([tpr_at_fpr(scores, members, fpr) for fpr in fprs])


@pytest.mark.parametrize("fpr", [0.02, 0.05, 0.3])
@pytest.mark.parametrize("ties", [False, True])
def test_the_interval_is_that_of_resampling_samples_one_by_one(rng: np.random.Generator, fpr: float, ties: bool):
    members = np.arange(300) < 120
    scores = rng.normal(size=300) + members
    scores = np.round(scores, 1) if ties else scores
    naive = [
        tpr_at_fpr(np.concatenate([rng.choice(scores[members], 120), rng.choice(scores[~members], 180)]), members, fpr)
        for _ in range(4000)
    ]
    estimate = tpr_band(scores, members, [fpr], replicates=20_000)[0]
    assert [estimate.low, estimate.high] == pytest.approx(
        np.quantile(naive, [0.025, 0.975]), abs=2.5 / 120
    )  # quantiles of counts out of 120


def test_one_more_target_lies_in_the_interval_in_95_of_100_cases(rng: np.random.Generator):
    """Figures whose spread is all chance in the samples: on a quarter of them it is twice as large."""
    seen, later = rng.normal(0.5, 0.01, (20_000, 6)), rng.normal(0.5, 0.02, 20_000)
    estimates = [next_target(own.mean(), own.std(ddof=1), 6, 0.25) for own in seen]
    covered = [estimate.low <= value <= estimate.high for estimate, value in zip(estimates, later, strict=True)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.005)


def test_an_interval_stays_within_what_a_share_can_be():
    wide = next_target(0.1, 0.2, 4)
    assert (wide.low, wide.value) == (0.0, 0.1)
    assert next_target(0.9, 0.2, 4).high == 1.0


def test_the_interval_of_a_mean_is_students(rng: np.random.Generator):
    values = rng.normal(0.4, 0.02, 9)
    low, high = stats.t.interval(0.95, 8, values.mean(), stats.sem(values))
    estimate = mean_of(values)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((values.mean(), low, high))


def test_a_curve_has_the_values_of_the_band():
    rng = np.random.default_rng(3)
    members = rng.random(300) < 0.4
    scores, fprs = np.round(rng.normal(size=300) + members, 1), [0.006, 0.05, 0.3, 1.0]
    band = tpr_band(scores, members, fprs, replicates=2)
    np.testing.assert_array_equal(tpr_curve(scores, members, fprs), [estimate.value for estimate in band])


def test_a_band_has_a_width_where_every_member_or_none_is_found():
    scores, members = np.arange(30.0), np.arange(30) >= 20
    assert tpr_band(scores, members, [0.05])[0].low == pytest.approx(0.025**0.1)
    assert tpr_band(-scores, members, [0.05])[0].high == pytest.approx(1 - 0.025**0.1)
