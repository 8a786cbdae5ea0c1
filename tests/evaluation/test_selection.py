from dataclasses import dataclass

import numpy as np
import pytest

from jaxmia.attacks import (
    Adaptive,
    Aligned,
    Bavaria,
    Calibrated,
    Evidence,
    LiraOffline,
    LiraOnline,
    Loss,
    Margin,
    RankFusion,
    Rmia,
)
from jaxmia.attacks.catalogue import standard_attacks
from jaxmia.errors import InputError
from jaxmia.evaluation.metrics import auc, tpr_at_fpr
from jaxmia.evaluation.selection import check_independent, choose, select
from tests.attacks.test_basic import hard_evidence


@dataclass(frozen=True)
class Told:
    """An attack that returns what it was given, row by row of pseudo-targets, recognised by their margins."""

    name: str
    answers: tuple[tuple[float, np.ndarray], ...]

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return next((scores for key, scores in self.answers if evidence.target[0, 0] == key), evidence.target[0])


def scripted(signals, models=12, samples=2000, seed=0):
    """Evidence, and one attack for each signal: its scores on pseudo-target t are `signal * membership + noise`."""
    rng = np.random.default_rng(seed)
    mask = rng.random((models, samples)) < 0.5
    phi = rng.normal(size=(models, 1, samples))
    evidence = Evidence(rng.normal(size=(1, samples)), phi, mask, np.zeros(samples, int))
    kept = [np.flatnonzero((o := np.delete(mask, t, 0)).any(0) & ~o.all(0)) for t in range(models)]
    noise = {name: rng.normal(size=mask.shape) for name, _ in signals.values()}
    attacks = [
        Told(label, tuple((phi[t, 0, kept[t]][0], (gain * mask[t] + noise[name][t])[kept[t]]) for t in range(models)))
        for label, (name, gain) in signals.items()
    ]
    return evidence, attacks


def test_the_stronger_attack_is_chosen():
    evidence, attacks = scripted({"weak": ("a", 0.2), "strong": ("b", 1.0), "none": ("c", 0.0)})
    selection = select(evidence, attacks, 0.05)
    assert selection.chosen.name in ("strong", "fusion(strong+weak)")
    rows = {row.name: row for row in selection.results}
    assert [row.name for row in selection.results][:3] == ["weak", "strong", "none"]
    assert rows["strong"].tpr == pytest.approx(
        np.mean([tpr_at_fpr(attacks[1](e), m, 0.05) for e, m in evidence.pseudo_targets(range(12))])
    )
    assert rows["none"].auc == pytest.approx(0.5, abs=0.02)


def test_the_simpler_of_two_equals_is_chosen_whichever_it_is():
    evidence, attacks = scripted({"first": ("a", 1.0), "second": ("a", 1.0)})
    assert select(evidence, attacks, 0.05).chosen.name == "first"
    assert select(evidence, attacks[::-1], 0.05).chosen.name == "second"


def test_independent_halves_of_a_signal_are_fused():
    evidence, attacks = scripted({"left": ("a", 0.7), "right": ("b", 0.7)})
    selection = select(evidence, attacks, 0.05)
    assert isinstance(selection.chosen, RankFusion)
    assert {attack.name for attack in selection.chosen.attacks} == {"left", "right"}


def test_choose_prefers_the_earlier_within_a_paired_error():
    base = np.linspace(0.1, 0.5, 16)
    wobble = np.where(np.arange(16) % 2, 0.01, -0.01)
    assert choose(np.stack([base, base + wobble + 0.001])) == 0  # behind by 0.001 with an error of 0.0026
    assert choose(np.stack([base, base + wobble + 0.004])) == 1
    assert choose(np.stack([base - 0.1, base, base])) == 1


@pytest.mark.slow
@pytest.mark.parametrize("models", [8, 24])
def test_without_signal_leaving_one_out_gives_an_auc_of_one_half(models):
    """The null test: membership drawn apart from margins. The AUC over pseudo-targets has an error of about 0.003 or
    less, and every candidate has to be within five of it."""
    rng = np.random.default_rng(models)
    evidence, _ = hard_evidence(models, seed=1, samples=4000)
    null = Evidence(evidence.target, evidence.shadows, rng.random(evidence.mask.shape) < 0.5, evidence.labels)
    selection = select(null, standard_attacks(), 0.05, targets=8)
    for row in selection.results:
        if row.auc is None:
            assert "has no" in row.reason
        else:
            assert row.auc == pytest.approx(0.5, abs=0.015), row
    assert selection.expected == pytest.approx(0.05, abs=4 * selection.expected_error + 0.002)


def test_a_planted_leak_shows_where_the_own_row_stays_in():
    """The same null data with the pseudo-target left among the shadows: the very leak that leaving it out prevents."""
    rng = np.random.default_rng(0)
    evidence, _ = hard_evidence(8, seed=1, samples=4000)
    mask = rng.random(evidence.mask.shape) < 0.5
    null = Evidence(evidence.target, evidence.shadows, mask, evidence.labels)
    [(honest, members)] = null.pseudo_targets([3])
    kept = np.flatnonzero((o := np.delete(mask, 3, 0)).any(0) & ~o.all(0))
    leaking = null.with_target(null.shadows[3].astype(np.float64)).take(kept)
    assert auc(LiraOnline()(honest), members) == pytest.approx(0.5, abs=0.04)
    assert auc(LiraOnline()(leaking), members) > 0.75


def test_balanced_masks_are_refused_because_the_rest_counts_out_the_members():
    rng = np.random.default_rng(0)
    balanced = rng.permuted(np.repeat([[True], [False]], 4, axis=0).repeat(2000, axis=1), axis=0)
    phi = rng.normal(size=(8, 1, 2000))
    evidence = Evidence(phi[0], phi, balanced, np.zeros(2000, int))
    with pytest.raises(InputError, match=r"correlates by -1\.00 with the number of other models"):
        select(evidence, [Margin()], 0.05)


def test_replicas_with_one_mask_are_refused_by_name():
    evidence, _ = hard_evidence(10, seed=0)
    mask = np.array(evidence.mask)
    mask[7] = mask[2]
    replicas = Evidence(evidence.target, evidence.shadows, mask, evidence.labels)
    with pytest.raises(InputError, match=r"models 2 and 7 have masks that correlate by 1\.00"):
        select(replicas, [Margin()], 0.05)


@pytest.mark.parametrize("samples", [200, 28_000])
def test_independent_masks_are_accepted(samples):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        check_independent(rng.random((64, samples)) < rng.uniform(0.3, 0.7), np.arange(0, 64, 2))


def test_the_choice_ignores_the_target_and_what_is_expected_holds_for_it():
    evidence, members = hard_evidence(24, seed=6, samples=3000)
    candidates = [Margin(), Rmia(), LiraOnline("global"), LiraOnline("per-example"), Bavaria(), Adaptive()]
    selection = select(evidence, candidates, 0.05, targets=12)
    flipped = select(evidence.with_target(evidence.target[:, ::-1]), candidates, 0.05, targets=12)
    assert flipped.chosen == selection.chosen
    assert flipped.results == selection.results
    reached = tpr_at_fpr(selection.chosen(evidence), members, 0.05)
    assert selection.expected == pytest.approx(reached, abs=0.05)
    best = max(row.tpr for row in selection.results if row.tpr is not None)
    assert selection.expected > best - 0.01
    published = [row.tpr for row in selection.results if row.name in ("rmia-online", "lira-online-global") and row.tpr]
    assert selection.expected > max(published) > 0.05


def test_a_target_unlike_its_shadows_is_aligned():
    evidence, _ = hard_evidence(16, seed=2)
    evidence = evidence.take(np.flatnonzero(evidence.mask.any(0) & ~evidence.mask.all(0)))
    candidates = [Calibrated(), LiraOnline()]
    like = select(evidence, candidates, 0.05)
    unlike = select(evidence.with_target(evidence.target * 0.5), candidates, 0.05)
    assert not like.aligned
    assert unlike.aligned
    assert unlike.misalignment > 4 > like.misalignment
    assert unlike.chosen == Aligned(like.chosen)


def test_candidates_that_cannot_be_used_stay_in_the_table_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    evidence, _ = hard_evidence(8, seed=1)
    mask = np.array(evidence.mask)
    mask[:, 11] = False
    monkeypatch.setattr("jaxmia.attacks.incomplete.MAX_INCOMPLETE", 0.0)
    lacking = Evidence(evidence.target, evidence.shadows, mask, evidence.labels)
    selection = select(lacking, [Loss(), LiraOnline(), LiraOffline(), Adaptive()], 0.05)
    online = selection.results[1]
    assert (online.name, online.tpr) == ("lira-online-shrunk", None)
    assert "has no IN model" in online.reason
    assert selection.chosen.name != "lira-online-shrunk"
    with pytest.raises(InputError, match=r"no candidate can be used: lira-online-shrunk: .*has no IN model"):
        select(lacking, [LiraOnline()], 0.05)


def test_seed_draws_the_pseudo_targets():
    evidence, attacks = scripted({"only": ("a", 0.5)}, models=20)
    first, again, other = (select(evidence, attacks, 0.05, targets=6, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.results != other.results
    assert first.targets == 6


def test_a_rate_that_allows_no_false_alarm_is_not_chosen_by():
    evidence, attacks = scripted({"only": ("a", 0.5)}, models=20)
    fewest = int((~evidence.mask).sum(1).min())
    with pytest.raises(
        InputError, match=rf"attack\.fpr: 0\.0001 allows no false positive among the {fewest} non-members"
    ):
        select(evidence, attacks, 0.0001)
    assert select(evidence, attacks, 1 / fewest).chosen.name == "only"


def test_too_few_shadows_or_targets_and_a_bad_fpr_are_refused():
    evidence, _ = hard_evidence(3, seed=0, samples=100)
    with pytest.raises(InputError, match="shadows: 3 models, expected at least 4"):
        select(evidence, [Margin()], 0.05)
    evidence, _ = hard_evidence(6, seed=0, samples=100)
    with pytest.raises(InputError, match=r"attack\.fpr: 0 is not between 0 and 1"):
        select(evidence, [Margin()], 0)
    with pytest.raises(InputError, match=r"attack\.targets: 3 is fewer than 4"):
        select(evidence, [Margin()], 0.05, targets=3)
