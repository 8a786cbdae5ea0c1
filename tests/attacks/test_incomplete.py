import numpy as np
import pytest
from scipy.stats import rankdata

from jaxmia.attacks import Adaptive, Evidence, LiraOnline, Margin, lacking, score_all
from jaxmia.errors import InputError


@pytest.fixture
def evidence(rng: np.random.Generator) -> Evidence:
    """Two hundred samples, of which sample 5 has no IN and 6 no OUT model."""
    mask = rng.random((6, 200)) < 0.5
    mask[:2] = [[True], [False]]
    mask[:, 5], mask[:, 6] = False, True
    return Evidence(
        rng.normal(size=(2, 200)), rng.normal(size=(6, 2, 200)) + 2 * mask[:, None], mask, np.zeros(200, int)
    )


def test_the_others_are_scored_as_if_those_were_not_there(evidence: Evidence):
    assert np.flatnonzero(lacking(evidence)).tolist() == [5, 6]
    others = np.flatnonzero(~lacking(evidence))
    found = score_all(LiraOnline(), evidence)
    np.testing.assert_array_equal(found[others], LiraOnline()(evidence.take(others)))


def test_those_that_lack_a_side_get_the_place_that_adaptive_gives_them(evidence: Evidence):
    found, prior = score_all(LiraOnline(), evidence), Adaptive()(evidence)
    others = ~lacking(evidence)
    for sample in (5, 6):
        place = np.append(prior[others], prior[sample])
        own = np.append(found[others], found[sample])
        assert rankdata(own)[-1] == pytest.approx(rankdata(place)[-1], abs=1)


def test_an_attack_that_needs_no_sides_is_itself(evidence: Evidence):
    np.testing.assert_array_equal(score_all(Margin(), evidence), Margin()(evidence))


def test_where_many_lack_a_side_the_attack_is_refused(evidence: Evidence):
    mask = evidence.mask.copy()
    mask[:, :11] = False
    with pytest.raises(InputError, match=r"sample 0 has no IN model among 6 \(nor have 10 others\)"):
        score_all(LiraOnline(), Evidence(evidence.target, evidence.shadows, mask, evidence.labels))
