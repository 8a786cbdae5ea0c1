import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from scipy.stats import t as student

from jaxmia.api import attack
from jaxmia.attacks import Evidence, misaligned
from jaxmia.attacks.alignment import max_misalignment
from jaxmia.config import AttackConfig
from jaxmia.data.masks import Masks
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.evaluation.selection import Selection
from jaxmia.evaluation.unlike import PRIOR, fixed_distance, likeness_to_shadows
from jaxmia.pipeline.scoring import score
from jaxmia.runs.matrices import read_matrices
from jaxmia.runs.store import Chunk, ScoreStore
from jaxmia.training.shadows import TrainedShadows


def alike(models: int, seed: int, samples: int = 300) -> Evidence:
    """Models of one recipe on samples whose membership is fixed; the first is the target."""
    rng = np.random.default_rng(seed)
    members = np.arange(samples) % 3 > 0
    level, width = rng.normal(0, 0.5, (models + 1, 1)), rng.lognormal(0, 0.1, (models + 1, 1))
    phi = (
        rng.normal(2, 2, samples)
        + members
        + level
        + width * rng.gamma(4, 0.2, samples) * rng.normal(size=(models + 1, samples))
    )
    return Evidence(phi[:1], phi[1:, None], np.tile(members, (models, 1)), np.zeros(samples, int))


def test_the_distance_is_that_of_a_naive_loop():
    fixed = alike(6, 0, samples=40)
    phi, members = np.concatenate([fixed.target, fixed.shadows[:, 0]]), fixed.mask[0]
    rows = []
    for model in range(7):
        others = np.delete(phi, model, axis=0)
        row = []
        for side in (members, ~members):
            variances = others[:, side].var(0, ddof=1)
            shrunk = (variances * 5 + variances.mean() * PRIOR) / (5 + PRIOR)
            z = (phi[model, side] - others[:, side].mean(0)) / np.sqrt(shrunk)
            row += [z.mean(), np.log(np.abs(z).mean())]
        rows.append(row)
    own, others = np.array(rows[0]), np.array(rows[1:])
    naive = np.abs(own - others.mean(0)) / others.std(0, ddof=1) / np.sqrt(1 + 1 / 6)
    assert fixed_distance(fixed) == pytest.approx(naive.max())


@pytest.mark.parametrize("models", [3, 8, 32])
def test_a_target_of_the_recipe_is_hardly_ever_called_unlike_and_seldom_far(models: int):
    """The chance of a distance is at most that of the largest of four of Student's (Bonferroni)."""
    distances = np.array([fixed_distance(alike(models, seed)) for seed in range(300)])
    assert (distances > max_misalignment(models, figures=4)).sum() <= 1
    for rate in (0.05, 0.2):
        far = (distances > student.isf(rate / 8, models - 1)).mean()
        assert far < rate + 3 * np.sqrt(rate / 300)


def test_a_target_that_differs_on_single_samples_is_called_unlike_though_level_and_width_are_the_same():
    fixed = alike(16, 1)
    swapped = fixed.target.copy()
    for side in (fixed.mask[0], ~fixed.mask[0]):
        swapped[0, side] = fixed.target[0, np.flatnonzero(side)[::-1]]
    other = fixed.with_target(swapped)
    assert not misaligned(other)
    assert likeness_to_shadows(fixed, other).unlike
    assert not likeness_to_shadows(fixed, fixed).unlike


def test_with_few_fixed_samples_level_and_width_are_compared():
    fixed = alike(16, 1)
    far = fixed.with_target(fixed.target + 50)
    few = far.take(np.concatenate([np.flatnonzero(fixed.mask[0]), np.flatnonzero(~fixed.mask[0])[:19]]))
    assert likeness_to_shadows(fixed, far).unlike
    assert not likeness_to_shadows(fixed, few).unlike
    assert likeness_to_shadows(far, few) == likeness_to_shadows(far, None)
    assert likeness_to_shadows(far, None).unlike
    two = Evidence(far.target, far.shadows[:2], far.mask[:2], far.labels)
    assert likeness_to_shadows(far, two).distance == 0


def test_a_run_is_judged_on_its_fixed_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compare = Mock(wraps=fixed_distance)
    monkeypatch.setattr("jaxmia.evaluation.unlike.fixed_distance", compare)
    monkeypatch.setattr("jaxmia.evaluation.unlike.misalignment", Mock(side_effect=AssertionError))
    rng = np.random.default_rng(0)
    samples, models = 600, 12
    members = rng.random(samples) < 0.5
    membership = np.where(np.arange(samples) < 400, members, UNKNOWN).astype(np.int8)
    masks = Masks.knowing(3, membership, 0.9)
    mask = masks(range(models))
    phi = (
        rng.normal(0, 2, samples)
        + rng.normal(size=(models + 1, 2, samples))
        + 1.5 * np.stack([*mask, members])[:, None]
    )
    Pool(None, np.zeros(samples, np.int32), np.arange(samples).astype(str), membership).save(tmp_path / "pool.npz")
    nothing = np.full(models, np.nan)
    chunk = Chunk(np.arange(models), mask, phi[:-1].astype(np.float32), nothing, nothing, {}, {}, free=masks.free)
    ScoreStore(tmp_path / "shadows").write(chunk)

    np.savez(tmp_path / "target.npz", phi=phi[-1])
    fixed = read_matrices(tmp_path).fixed
    assert fixed is not None
    np.testing.assert_array_equal(fixed.target, phi[-1, :1][:, ~masks.free])
    np.testing.assert_array_equal(fixed.shadows, chunk.phi[:, :1][:, :, ~masks.free])
    assert (fixed.mask == members[~masks.free]).all()
    like = score(tmp_path, AttackConfig(targets=4))
    assert not like.unlike_shadows and like.selection and not like.selection.aligned
    assert like.misalignment == fixed_distance(fixed)
    assert compare.call_count == 1
    score(tmp_path, AttackConfig(name="margin", targets=4))
    assert compare.call_count == 2

    order = np.arange(samples)
    for side in (members, ~members):
        order[~masks.free & side] = order[~masks.free & side][::-1]
    np.savez(tmp_path / "target.npz", phi=phi[-1][:, order])
    unlike = score(tmp_path, AttackConfig(targets=4))
    assert unlike.unlike_shadows
    assert unlike.private == like.private
    assert unlike.selection and like.selection
    assert (unlike.selection.candidate, unlike.selection.aligned) == (like.selection.chosen, True)
    assert json.loads((tmp_path / "metrics.json").read_text())["unlike_shadows"]


def test_from_python_too_a_target_is_judged_on_fixed_samples():
    rng = np.random.default_rng(0)
    samples, models = 600, 8
    truth = rng.random(samples) < 0.5
    membership = np.where(np.arange(samples) < 400, truth, UNKNOWN).astype(np.int8)
    masks = Masks.knowing(3, membership, 0.9)
    mask = masks(range(models))
    phi = (rng.normal(0, 2, samples) + rng.normal(size=(models + 1, samples)) + np.stack([*mask, truth])).astype(
        np.float32
    )
    rows = np.arange(samples, dtype=np.float32)[:, None]
    pool = Pool(rows, np.zeros(samples, np.int32), np.arange(samples).astype(str), membership)
    shadows = TrainedShadows(phi[:-1, None], mask, free=masks.free)
    order = np.arange(samples)
    for side in (truth, ~truth):
        order[~masks.free & side] = order[~masks.free & side][::-1]

    def selection(margins: np.ndarray) -> Selection:
        def target(samples: np.ndarray) -> np.ndarray:
            return np.stack([margins[samples[:, 0].astype(int)], np.zeros(len(samples), np.float32)], axis=1)

        found = attack(pool, target, shadows).selection
        assert found
        return found

    like, unlike = selection(phi[-1]), selection(phi[-1, order])
    assert (like.aligned, unlike.aligned) == (False, True)
    assert unlike.misalignment > 10 > like.misalignment
