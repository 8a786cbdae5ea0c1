import numpy as np
import pytest

from jaxmia.attacks import Calibrated, Evidence, LiraOnline, Margin
from jaxmia.evaluation.metrics import tpr_at_fpr
from jaxmia.report import by_models
from jaxmia.report.by_models import tpr_by_models

FPR = 0.1


def make_evidence(models: int, samples: int = 300, strength: float = 1.5) -> tuple[Evidence, np.ndarray]:
    rng = np.random.default_rng(5)
    mask = rng.random((models + 1, samples)) < 0.5
    phi = rng.normal(0, 3, samples) + rng.normal(size=(models + 1, 1, samples)) + strength * mask[:, None]
    membership = np.where(np.arange(samples) < samples // 2, mask[-1], -1)
    return Evidence(phi[-1], phi[:-1], mask[:-1], np.zeros(samples, np.int64)), membership


def test_numbers_of_models_double_up_to_all_but_one():
    evidence, membership = make_evidence(14)
    assert [step.models for step in tpr_by_models(evidence, Calibrated(), membership, FPR)] == [4, 8, 13]
    evidence, membership = make_evidence(9)
    assert [step.models for step in tpr_by_models(evidence, Calibrated(), membership, FPR)] == [4, 8]
    evidence, membership = make_evidence(4)
    assert tpr_by_models(evidence, Calibrated(), membership, FPR) == []


def test_with_all_others_a_shadow_is_attacked_as_by_hand():
    evidence, membership = make_evidence(9)
    last = tpr_by_models(evidence, LiraOnline("global"), membership, FPR, targets=9)[-1]
    by_hand = []
    for target in range(9):
        others = np.delete(np.arange(9), target)
        inside = evidence.mask[others].sum(0)
        kept = np.flatnonzero((inside > 0) & (inside < 8))
        against = Evidence(evidence.shadows[target], evidence.shadows[others], evidence.mask[others], evidence.labels)
        scores = LiraOnline("global")(against.take(kept))
        by_hand.append(tpr_at_fpr(scores, evidence.mask[target, kept], FPR))
    assert sorted(last.tprs) == pytest.approx(sorted(by_hand))


def test_membership_of_the_pseudo_target_is_not_seen():
    """Labels drawn anew leave nothing to find: the mean TPR is the FPR within five standard errors."""
    evidence, membership = make_evidence(33, samples=600)
    other = np.random.default_rng(1).random(evidence.mask.shape) < 0.5
    null = Evidence(evidence.target, evidence.shadows, other, evidence.labels)
    for step in tpr_by_models(null, LiraOnline("global"), membership, FPR):
        error = step.tprs.std(ddof=1) / np.sqrt(len(step.tprs))
        assert abs(step.tprs.mean() - FPR) < 5 * error + 1 / 300


def test_more_models_find_more():
    steps = tpr_by_models(*_attacked(make_evidence(40, samples=1000)), FPR)
    assert steps[-1].tprs.mean() > steps[0].tprs.mean() + 0.03
    assert all(step.public and step.public.low > FPR for step in steps)


def _attacked(made: tuple[Evidence, np.ndarray]):
    return made[0], Calibrated(), made[1]


def test_public_samples_without_labels_have_no_figure():
    evidence, membership = make_evidence(9)
    for unknown in (np.full_like(membership, -1), np.where(membership == 0, -1, membership)):
        assert [step.public for step in tpr_by_models(evidence, Margin(), unknown, FPR)] == [None, None]


def test_a_large_run_has_fewer_pseudo_targets(monkeypatch: pytest.MonkeyPatch):
    evidence, membership = make_evidence(12)
    assert len(tpr_by_models(evidence, Margin(), membership, FPR)[-1].trials) == 12
    monkeypatch.setattr(by_models, "MARGINS", 2 * evidence.shadows.size * 5)
    assert len(tpr_by_models(evidence, Margin(), membership, FPR)[-1].trials) == 5
    monkeypatch.setattr(by_models, "MARGINS", 0)
    assert len(tpr_by_models(evidence, Margin(), membership, FPR)[-1].trials) == 4


def test_masks_without_members_leave_no_step():
    evidence, membership = make_evidence(9)
    never = Evidence(evidence.target, evidence.shadows, np.zeros_like(evidence.mask), evidence.labels)
    assert tpr_by_models(never, Margin(), membership, FPR) == []
