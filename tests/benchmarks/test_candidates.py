import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from benchmarks import candidates
from jaxmia.attacks import Attack, Base, Evidence, LiraOnline
from jaxmia.evaluation.metrics import auc
from jaxmia.evaluation.selection import _ranks, _Trial

ATTACKS: tuple[Attack, ...] = (Base(), LiraOnline("shrunk"), LiraOnline("global"))


def shadows_of(signal: float, seed: int = 0, models: int = 24, samples: int = 600) -> Evidence:
    """Margins that members are above by `signal` spreads; with 0 nothing tells who is a member."""
    rng = np.random.default_rng(seed)
    mask = rng.random((models, samples)) < 0.5
    phi = rng.normal(2, 2, samples) + rng.normal(size=(models, samples)) + signal * mask
    return Evidence(phi[:1], phi[:, None], mask, np.zeros(samples, int))


def trials_of(evidence: Evidence) -> list[_Trial]:
    return [
        _Trial(members, np.stack([_ranks(attack, against) for attack in ATTACKS]))
        for against, members in evidence.pseudo_targets(range(10))
    ]


def test_a_linear_combination_learns_nothing_where_there_is_nothing_to_learn():
    """Leaving a shadow out lowers a sample's IN count by its own membership; ranks hardly show it, and no combination
    of them that is the same for all samples can use it."""
    found = [
        candidates._combined_on_the_others(trials_of(shadows_of(0.0, seed)), [0, 1, 2]).mean(0) for seed in range(6)
    ]
    tpr, area = np.mean(found, axis=0)
    error = np.std(found, axis=0, ddof=1)[1] / np.sqrt(len(found))  # pseudo-targets of one draw share its chance
    assert abs(area - 0.5) < max(3 * error, 0.01)
    assert abs(tpr - candidates.FPR) < 0.015


def test_it_finds_what_there_is_to_find_and_leaves_the_target_out(monkeypatch: pytest.MonkeyPatch):
    trials = trials_of(shadows_of(1.5))
    whole = candidates._combined_on_the_others(trials, [0, 1, 2])
    singles = np.array([[auc(ranks, trial.members) for ranks in trial.ranks] for trial in trials])
    assert whole[:, 1].mean() > singles.mean(0).max() - 0.01
    lying = [_Trial(~trials[0].members, trials[0].ranks), *trials[1:]]
    assert candidates._combined_on_the_others(lying, [0, 1, 2])[0, 1] == pytest.approx(1 - whole[0, 1])


def test_a_flexible_model_of_counts_finds_out_members_of_a_target_that_gives_nothing_away():
    """Why nothing flexible is learned on pseudo-targets: over several of them a sample's IN counts without the one that
    plays are its total less that one's membership."""
    evidence = shadows_of(0.0)
    counts = np.stack([evidence.mask.sum(0) - evidence.mask[target] for target in range(10)])
    sample = np.tile(1000.0 * np.arange(counts.shape[1]), 9)
    learned = np.stack([sample, counts[1:].ravel()], axis=1)
    model = KNeighborsClassifier(1).fit(learned, evidence.mask[1:10].ravel())
    asked = np.stack([1000.0 * np.arange(counts.shape[1]), counts[0]], axis=1)
    assert auc(model.predict(asked).astype(float), evidence.mask[0]) > 0.95
