import numpy as np
import pytest
from scipy.stats import rankdata

from jaxmia.attacks.ranks import ranks


@pytest.mark.parametrize("levels", [2, 30, 10**9])
def test_ranks_are_those_of_scipy(levels: int):
    values = np.random.default_rng(levels).integers(0, levels, 500)
    np.testing.assert_array_equal(ranks(values), rankdata(values))
    np.testing.assert_array_equal(ranks(-values / 7), rankdata(-values / 7))


def test_infinite_scores_have_ranks_and_nan_has_none():
    values = np.array([np.inf, 0.0, -np.inf, np.inf])
    np.testing.assert_array_equal(ranks(values), [3.5, 2.0, 1.0, 3.5])
    assert np.isnan(ranks(np.array([1.0, np.nan, 0.0]))).all()
