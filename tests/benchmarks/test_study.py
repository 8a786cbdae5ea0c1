import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.datasets import load_digits

from benchmarks.program.account import BANDWIDTH, ELEMENTWISE, MATRIX_RATE, PRODUCTS, REDUCTIONS, Kernel
from benchmarks.study.device import UNKNOWN, bench, profile, time_by_kind, time_by_operation
from benchmarks.study.making import Study, truth_of
from benchmarks.study.presets import ATTACK_SEED, KINDS, PRESETS, target_recipe
from benchmarks.study.published import LiraLeakPro, LiraPublished, RmiaPublished
from benchmarks.study.report import write_report
from benchmarks.study.strength import AUTO, REFERENCES, mean_of, paired, subject
from benchmarks.study.tables import throughput
from jaxmia.attacks import Evidence
from jaxmia.cli.overrides import configure
from jaxmia.data.pool import Pool
from jaxmia.evaluation.metrics import tpr_at_fpr
from jaxmia.runs.store import ScoreStore
from tests.warm import warm_python

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The smallest study there is, made by its command."""
    out = tmp_path_factory.mktemp("study")
    pixels, classes = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    np.savez(out / "digits.npz", images=images, labels=classes)
    command = ["-m", "benchmarks.study", "train", "tiny", "--out", out, "--images", out / "digits.npz", "--seed", "5"]
    subprocess.run([warm_python(), *map(str, command)], cwd=ROOT, check=True, capture_output=True, timeout=300)
    return Study(PRESETS["tiny"], out / "digits.npz", out, 5)


@pytest.mark.slow
def test_a_study_adds_up_and_reports(study: Study):
    case = study.cases[0]
    assert ScoreStore(case.shadows("matched") / "shadows").models() == set(range(8))
    write_report(study, study.out / "strength_tiny")
    result = json.loads((study.out / "strength_tiny.json").read_text())
    cell = result["cases"][0]["sizes"]["8"]
    assert len(cell["replicas"][AUTO]["auc"]) == 4
    assert set(cell["against"]) == set(REFERENCES)
    assert set(result["cases"][0]["recipes"]) == {"true", "matched", "default"}
    text = (study.out / "strength_tiny.md").read_text()
    assert "## Attacks that `auto` selected" in text
    assert "strength_tiny_targets.md" in text
    assert "Target 0, 8 shadows" in (study.out / "strength_tiny_targets.md").read_text()


@pytest.mark.slow
def test_what_was_measured_is_not_measured_again(study: Study, monkeypatch: pytest.MonkeyPatch):
    write_report(study, study.out / "strength_tiny")
    before = (study.out / "strength_tiny.json").read_text()
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.study.report.measure", pytest.fail)
        write_report(study, study.out / "strength_tiny")
    assert json.loads((study.out / "strength_tiny.json").read_text())["cases"] == json.loads(before)["cases"]
    monkeypatch.setattr("benchmarks.study.report.SOURCES", ())
    monkeypatch.setattr("benchmarks.study.report.measure", lambda subject: pytest.fail("measured again"))
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        write_report(study, study.out / "strength_tiny")


@pytest.mark.slow
def test_the_attack_knows_no_truth_and_replicas_share_no_masks_with_it(study: Study):
    case = study.cases[0]
    pool = Pool.load(case.shadows("matched") / "pool.npz")
    members = truth_of(case, pool.ids)
    assert np.array_equal(members[pool.public], pool.membership[pool.public] == 1)
    assert (pool.membership[~pool.public] == -1).all()
    assert members[~pool.public].sum() == 80
    given = study.config_of(case, "matched").model_dump_json()
    assert "truth" not in given
    assert study.config_of(case, "matched").seed == ATTACK_SEED
    shadows, true, replicas = (
        ScoreStore(case.shadows(name) / "shadows").read().mask for name in ("matched", "true", "replicas")
    )
    assert np.array_equal(shadows, true)
    agreement = np.mean(shadows[:, None] == replicas[None], axis=2)
    assert np.abs(agreement - 0.5).max() < 0.5 * 5 / np.sqrt(len(pool))  # five standard deviations of chance


@pytest.mark.slow
def test_a_subject_is_attacked_by_the_first_shadows(study: Study):
    case = study.cases[0]
    one = subject(case, "matched", 6)
    store = ScoreStore(case.shadows("matched") / "shadows").read()
    mask = store.mask[store.model < 6]
    kept = np.flatnonzero(mask.any(0) & ~mask.all(0))
    assert np.array_equal(one.evidence.mask, mask[:, kept])
    assert one.judged.sum() == (kept >= 160).sum()
    assert one.replicas.shape == (4, 2, len(kept))


def test_targets_differ_in_kind_and_are_not_on_the_grid():
    preset = PRESETS["gpu"]
    recipes = [target_recipe(preset, 1, number) for number in range(len(KINDS))]
    assert [recipe.label_smoothing > 0 for recipe in recipes] == [False, False, True]
    assert [recipe.augment.crop for recipe in recipes] == [4, 0, 0]
    space = preset.config().match
    assert all(recipe.learning_rate not in space.learning_rate for recipe in recipes)
    assert target_recipe(preset, 1, 0) == recipes[0] != target_recipe(preset, 2, 0)


@pytest.fixture
def evidence(rng: np.random.Generator) -> Evidence:
    return Evidence(
        rng.normal(size=(2, 30)),
        rng.normal(size=(9, 2, 30)),
        np.arange(9)[:, None] % 3 != np.arange(30) % 3,
        np.zeros(30, int),
    )


def test_published_lira_is_what_its_authors_compute(evidence: Evidence):
    expected = np.zeros(30)
    for view in range(2):
        inside, outside = (
            [[evidence.shadows[m, view, n] for m in range(9) if evidence.mask[m, n] == trained] for n in range(30)]
            for trained in (True, False)
        )
        spread = np.std(np.concatenate(inside))
        for n in range(30):
            member, other = (
                norm.logpdf(evidence.target[view, n], np.median(side[n]), spread) for side in (inside, outside)
            )
            expected[n] += (member - other) / 2
    np.testing.assert_allclose(LiraPublished()(evidence), expected, atol=1e-9)


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("fixed", [True, False])
def test_other_forms_of_published_lira_are_what_its_authors_compute(evidence: Evidence, online: bool, fixed: bool):
    expected = np.zeros(30)
    for view in range(2):
        everything = {
            trained: np.concatenate([evidence.shadows[m, view][evidence.mask[m] == trained] for m in range(9)])
            for trained in (True, False)
        }
        for n in range(30):
            densities = {}
            for trained in (True, False):
                side = evidence.shadows[evidence.mask[:, n] == trained, view, n]
                spread = np.std(everything[online]) if fixed else np.std(side)
                densities[trained] = norm.logpdf(evidence.target[view, n], np.median(side), spread + 1e-30)
            expected[n] += (densities[True] * online - densities[False]) / 2
    np.testing.assert_allclose(LiraPublished(online, fixed)(evidence), expected, rtol=1e-9)


def test_lira_of_leakpro_takes_means_and_a_raw_spread_a_side(evidence: Evidence):
    expected = np.zeros(30)
    for view in range(2):
        for trained, sign in ((True, 1), (False, -1)):
            raw = np.concatenate([evidence.shadows[m, view][evidence.mask[m] == trained] for m in range(9)])
            for n in range(30):
                side = evidence.shadows[evidence.mask[:, n] == trained, view, n]
                expected[n] += sign * norm.logpdf(evidence.target[view, n], side.mean(), raw.std()) / 2
    np.testing.assert_allclose(LiraLeakPro()(evidence), expected, atol=1e-9)


def test_published_offline_rmia_has_its_slope(evidence: Evidence):
    p, shadows = (1 / (1 + np.exp(-phi)) for phi in (evidence.target, evidence.shadows))
    out = np.array([[shadows[~evidence.mask[:, n], view, n].mean() for n in range(30)] for view in range(2)])
    ratio = p / ((1.3 * out + 0.7) / 2)
    expected = [(ratio[:, n : n + 1] / ratio > 2).mean() for n in range(30)]
    np.testing.assert_allclose(RmiaPublished(offline=0.3)(evidence), expected, atol=1e-12)


def test_published_rmia_is_the_share_of_samples_beaten(evidence: Evidence):
    p = 1 / (1 + np.exp(-evidence.target))
    shadows = 1 / (1 + np.exp(-evidence.shadows))
    expected = np.zeros(30)
    for view in range(2):
        ratio = np.array(
            [
                p[view, n] / np.mean([shadows[evidence.mask[:, n] == side, view, n].mean() for side in (True, False)])
                for n in range(30)
            ]
        )
        for n in range(30):
            expected[n] += np.mean([ratio[n] / ratio[z] > 2 for z in range(30)]) / 2
    np.testing.assert_allclose(RmiaPublished()(evidence), expected, atol=1e-12)


def test_paired_differences_cancel_what_is_common(rng: np.random.Generator):
    members = np.arange(600) < 300
    score = rng.normal(size=600) + members
    same = paired(score, 2 * score, members, "tpr@0.05")
    assert (same.value, same.low, same.high) == (0, 0, 0)
    worse = paired(score, score + rng.normal(size=600), members, "auc")
    assert 0 < worse.low < worse.value < worse.high
    reached = [tpr_at_fpr(one, members, 0.05) for one in (score, -score)]
    assert paired(score, -score, members, "tpr@0.05").value == pytest.approx(reached[0] - reached[1])


def test_the_mean_of_replicas_has_students_interval():
    found = mean_of([np.array([1.0, 2.0, 3.0])])
    assert found.value == 2
    assert found.high - 2 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)
    both = mean_of([np.array([1.0, 2.0, 3.0]), np.array([11.0, 12.0, 13.0])])
    assert both.value == 7  # that targets differ is no chance
    assert both.high - 7 == pytest.approx(2.776445 / np.sqrt(6), rel=1e-5)


def test_time_goes_to_operations_and_not_to_the_loops_around_them():
    events = [
        {"name": "a", "pid": 1, "tid": 1, "dur": 5, "args": {"hlo_op": "loop_convert_fusion.12"}},
        {"name": "b", "pid": 1, "tid": 2, "dur": 2, "args": {"hlo_op": "loop_convert_fusion.12"}},
        {"name": "c", "pid": 1, "tid": 1, "dur": 9, "args": {"hlo_op": "while.3"}},
        {"name": "d", "pid": 1, "tid": 1, "dur": 4},
    ]
    assert time_by_operation(events) == {"loop_convert_fusion.12": 7}


def test_on_a_gpu_time_is_that_of_its_streams():
    """The trace says everything once more by operation and by module; and not of every kernel whom it serves."""
    threads = {(7, 1): "Stream #13(Compute)", (7, 2): "XLA Ops", (1, 1): "python"}
    events: list[dict[str, Any]] = [
        {"name": "thread_name", "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
        for (pid, tid), name in threads.items()
    ]
    events += [
        {"name": "loop_add_fusion_2", "pid": 7, "tid": 1, "dur": 5, "args": {"hlo_op": "loop_add_fusion.2"}},
        {"name": "input_reduce_fusion_1", "pid": 7, "tid": 1, "dur": 3},
        {"name": "sm90_xmma_fprop_implicit_gemm", "pid": 7, "tid": 1, "dur": 8},
        {"name": "MemcpyD2D", "pid": 7, "tid": 1, "dur": 1},
        {"name": "loop_add_fusion.2", "pid": 7, "tid": 2, "dur": 5, "args": {"hlo_op": "loop_add_fusion.2"}},
        {"name": "wait", "pid": 1, "tid": 1, "dur": 99},
    ]
    spent = time_by_operation(events)
    assert spent == {
        "loop_add_fusion.2": 5,
        "input_reduce_fusion_1": 3,
        "sm90_xmma_fprop_implicit_gemm": 8,
        "MemcpyD2D": 1,
    }
    program = [
        Kernel("loop_add_fusion.2", ELEMENTWISE, 10, int(BANDWIDTH / 1e6), 0),
        Kernel("input_reduce_fusion.1", REDUCTIONS, 10, 0, int(MATRIX_RATE / 1e6)),
    ]
    kinds = time_by_kind(spent, program, calls=2)
    assert list(kinds) == ["convolutions and products of libraries", ELEMENTWISE, REDUCTIONS, UNKNOWN]
    assert [kind["spent"] for kind in kinds.values()] == [8e-6, 5e-6, 3e-6, 1e-6]
    assert [kind["least"] for kind in kinds.values()] == pytest.approx([0, 20e-6, 20e-6, 0])


@pytest.mark.slow
def test_a_profile_accounts_for_the_time(study: Study):
    preset = replace(study.preset, bench_widths=(8,))
    profiled = Study(preset, study.images, study.out / "profiled", 5)
    profile(profiled)
    result = json.loads((profiled.out / "profile.json").read_text())
    assert 0 < result["busy_seconds"] == pytest.approx(sum(kind["spent"] for kind in result["kinds"].values()))
    text = "\n".join(throughput({"bench": None, "profile": result}))
    assert f"({result['plan']})" in text
    assert PRODUCTS in text


@pytest.mark.parametrize("name", ["tiny", "gpu"])
def test_what_is_timed_is_what_the_study_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    np.savez(tmp_path / "images.npz", images=np.zeros((9, 8, 8, 3), np.uint8), labels=np.arange(9))
    timed: list[tuple[dict[str, Any], list[str]]] = []
    monkeypatch.setattr(
        "benchmarks.study.device.Bench", lambda **options: lambda overrides: timed.append((options, overrides))
    )
    preset = replace(PRESETS[name], bench_widths=(8,))
    bench(Study(preset, tmp_path / "images.npz", tmp_path, 5))
    ((options, overrides),) = timed
    asked, trained = configure(None, overrides).shadow, preset.config().shadow
    assert asked.model_copy(update={"count": trained.count}) == trained
    side = preset.image_size or preset.side
    assert (options["shape"], options["classes"], options["peers"]) == ((side, side, 3), 9, True)
