import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from jaxmia.attacks import Adaptive, Evidence
from jaxmia.evaluation.chances import LEAST, membership_chances


def planted(gap: float, seed: int = 0, models: int = 20, samples: int = 800) -> tuple[Evidence, np.ndarray]:
    """Shadows, and a target like them, whose members are above others by `gap` spreads; and who they are."""
    rng = np.random.default_rng(seed)
    mask = rng.random((models + 1, samples)) < 0.5
    phi = rng.normal(2, 2, samples) + rng.normal(size=(models + 1, samples)) + gap * mask
    return Evidence(phi[:1], phi[1:, None], mask[1:], np.zeros(samples, int)), mask[0]


def test_chances_are_those_of_an_isotonic_regression_on_shadows_that_play():
    """scikit-learn's own regression over the same scores."""
    evidence, _ = planted(1.0)
    attack = Adaptive()
    played = list(evidence.pseudo_targets(range(20)))
    scores, members = np.concatenate([attack(own) for own, _ in played]), np.concatenate([own for _, own in played])
    expected = IsotonicRegression(out_of_bounds="clip").fit(scores, members).predict(attack(evidence))
    np.testing.assert_allclose(membership_chances(evidence), np.clip(expected, LEAST, 1 - LEAST), atol=1e-6)


def test_chances_are_met_by_members():
    chances, members = map(
        np.concatenate,
        zip(*((membership_chances(e), m) for e, m in (planted(1.0, seed) for seed in range(6))), strict=True),
    )
    for low, high in ((0.15, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.85)):
        chosen = (chances > low) & (chances < high)
        error = 0.5 / np.sqrt(chosen.sum())
        assert members[chosen].mean() == pytest.approx(chances[chosen].mean(), abs=4 * error)


def test_where_nothing_tells_members_from_others_chances_are_even_and_none_is_certain():
    assert np.abs(membership_chances(planted(0.0)[0]) - 0.5).mean() < 0.05
    chances = membership_chances(planted(8.0)[0])
    assert (chances.min(), chances.max()) == (LEAST, 1 - LEAST)
