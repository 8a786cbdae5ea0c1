import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxmia.cli.display import expectation_lines
from jaxmia.config import AttackConfig
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.evaluation.intervals import Estimate
from jaxmia.evaluation.metrics import TprAtFpr
from jaxmia.files import load_npz
from jaxmia.pipeline.scoring import score
from jaxmia.report.likeness import Comparison, compare
from jaxmia.report.results import read_results
from jaxmia.report.verdict import Verdict, reach_verdict
from jaxmia.runs.metrics import RunMetrics
from tests.report.conftest import change_metrics, make_run, write_truth


def verdict_of(out: Path, truth: Path | None = None) -> Verdict:
    results = read_results(out, truth)
    comparison = compare(results)
    return reach_verdict(results, comparison if isinstance(comparison, Comparison) else None)


def test_the_page_promises_what_metrics_json_promises(run: tuple[Path, np.ndarray]):
    metrics = read_results(run[0]).metrics
    expected, public = verdict_of(run[0]).figures
    assert (expected.name, public.name) == ("expected", "public")
    assert metrics.private and metrics.public
    assert vars(expected.estimate) == {name: getattr(metrics.private, name) for name in ("value", "low", "high")}
    assert public.estimate == metrics.public.at(0.05)


@pytest.mark.parametrize("name", ["auto", "lira-online-global"])
def test_what_metrics_json_withholds_is_not_promised(run: tuple[Path, np.ndarray], name: str):
    """Twenty private samples are ten non-members or so, of which 5 % is no false alarm."""
    out, members = run
    pool = Pool.load(out / "pool.npz")
    membership = np.where(np.arange(len(members)) < len(members) - 20, members, UNKNOWN).astype(np.int8)
    Pool(None, pool.labels, pool.ids, membership).save(out / "pool.npz")
    assert score(out, AttackConfig(name=name)).private is None
    verdict = verdict_of(out)
    assert [figure.name for figure in verdict.figures] == ["public"]
    assert any(
        "There is no estimate for the private samples: there are too few of them (20)" in line
        for line in verdict.remarks
    )


def test_a_strong_attack_is_told_from_guessing_and_a_void_one_is_not(tmp_path: Path):
    make_run(tmp_path / "strong", 3.0)
    make_run(tmp_path / "void", 0.0)
    strong, void = verdict_of(tmp_path / "strong"), verdict_of(tmp_path / "void")
    assert "guessing identifies 5 %." in strong.sentence
    assert "not distinguishable from guessing" not in strong.sentence
    assert "not distinguishable from guessing" in void.sentence


def test_the_truth_stands_beside_what_was_expected(run: tuple[Path, np.ndarray], tmp_path: Path):
    out, members = run
    with_truth = verdict_of(out, write_truth(tmp_path / "truth.csv", out, members))
    assert [figure.name for figure in with_truth.figures] == ["expected", "public", "private"]
    assert with_truth.sentence.startswith(verdict_of(out).sentence)
    assert f"it identified {100 * with_truth.figures[2].estimate.value:.1f} % (" in with_truth.sentence


def test_only_a_choice_made_without_them_leaves_the_public_labels_unused(run: tuple[Path, np.ndarray]):
    assert any("named by the user" in remark for remark in verdict_of(run[0]).remarks)
    score(run[0], AttackConfig())
    assert any("not used to select the attack" in remark for remark in verdict_of(run[0]).remarks)
    change_metrics(run[0], matched=True)
    assert any("biases this figure slightly" in remark for remark in verdict_of(run[0]).remarks)


def test_a_target_unlike_its_shadows_is_warned_of(run: tuple[Path, np.ndarray]):
    out, _ = run
    assert not any("unlike its shadows" in remark for remark in verdict_of(out).remarks)
    np.savez(out / "target.npz", phi=load_npz(out / "target.npz")["phi"] + 30)
    score(out, AttackConfig(name="margin"))
    assert any("unlike its shadows" in remark for remark in verdict_of(out).remarks)


@pytest.mark.parametrize(("value", "remark"), [(0.01, "below the expected one"), (0.99, "above the expected")])
def test_a_public_figure_that_contradicts_the_shadows_is_pointed_out(
    run: tuple[Path, np.ndarray], value: float, remark: str
):
    results = read_results(run[0])
    assert results.metrics.public
    estimate = Estimate(value, value, value)
    figures = replace(results.metrics.public, tpr=(TprAtFpr(0.05, None, estimate, estimate),))
    change_metrics(run[0], public=figures.to_dict())
    assert any(remark in line for line in verdict_of(run[0]).remarks)


def test_without_shadows_and_labels_nothing_is_claimed(run: tuple[Path, np.ndarray]):
    change_metrics(run[0], public=None)
    change_metrics(run[0], private=None)
    nothing = verdict_of(run[0])
    assert nothing.sentence == "How strong the attack is at a false positive rate of 5 % could not be measured."
    assert (nothing.figures, nothing.plot) == ((), None)


def test_the_promise_names_what_contradicts_its_condition(run: tuple[Path, np.ndarray]):
    out, _ = run
    assert "if the target was trained as its shadows were; random" in verdict_of(out).sentence
    assert "public" not in verdict_of(out).sentence
    change_metrics(out, unlike_shadows=True, misalignment=9.0)
    public = verdict_of(out).figures[1].estimate
    assert verdict_of(out).sentence.endswith(
        f"guessing identifies 5 %. On the public samples, it identified {100 * public.value:.1f} % (95 % interval "
        f"{100 * public.low:.1f} to {100 * public.high:.1f} %)."
    )
    assert "as its shadows were (it was probably not: its logit margins are unlike theirs)" in verdict_of(out).sentence
    change_metrics(out, target_network="resnet18", shadow_network="resnet8")
    assert "as its shadows were (it was not: its network is resnet18, theirs resnet8)" in verdict_of(out).sentence
    (line,) = [line for line in expectation_lines(RunMetrics.read(out)) if line.startswith("private samples")]
    assert line.endswith("as its shadows were (it was not: its network is resnet18, theirs resnet8)")
    change_metrics(out, shadow_network="target")
    assert "resnet18" not in verdict_of(out).sentence


def test_a_run_records_the_networks_of_target_and_shadows(run: tuple[Path, np.ndarray]):
    out, _ = run
    assert RunMetrics.read(out).target_network is None
    np.savez(out / "target.npz", **load_npz(out / "target.npz"), metadata=np.array('{"network": "resnet18"}'))
    for path in sorted((out / "shadows").glob("*.npz")):
        arrays = load_npz(path)
        metadata = {"cache_key": {"shadow": {"architecture": "resnet8"}}}
        np.savez(path, **{**arrays, "metadata": np.array(json.dumps(metadata))})
    metrics = score(out, AttackConfig(name="margin"))
    assert metrics.other_network == "its network is resnet18, theirs resnet8"


def test_figures_outside_the_range_of_the_shadows_are_counted_if_the_target_is_not_called_unlike(
    run: tuple[Path, np.ndarray],
):
    out, _ = run
    assert not any("lie outside" in remark for remark in verdict_of(out).remarks)
    phi = load_npz(out / "target.npz")["phi"]
    np.savez(out / "target.npz", phi=phi + 0.7)
    metrics = score(out, AttackConfig(name="margin"))
    assert not metrics.unlike_shadows
    assert any("3 of the 3 figures" in remark and "lie outside" in remark for remark in verdict_of(out).remarks)
