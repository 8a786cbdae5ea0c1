from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jaxmia.files import load_npz
from jaxmia.report.by_models import rehearse
from jaxmia.report.results import read_results
from jaxmia.report.verdict import Verdict, reach_verdict
from tests.report.conftest import change_metrics, make_run, write_truth


def verdict_of(out: Path, truth: Path | None = None) -> Verdict:
    results = read_results(out, truth)
    steps = rehearse(results.evidence, results.attack, results.pool.membership, results.metrics.fpr)
    return reach_verdict(results, steps)


def test_a_named_attack_is_expected_to_do_what_it_did_on_pseudo_targets(run: tuple[Path, np.ndarray]):
    results = read_results(run[0])
    steps = rehearse(results.evidence, results.attack, results.pool.membership, 0.05)
    reached = steps[-1].reached
    expected, public = reach_verdict(results, steps).figures
    # half of the samples are private, so the chance in them is twice as large
    reach = stats.t.ppf(0.975, len(reached) - 1) * reached.std(ddof=1) * np.sqrt(2 + 1 / len(reached))
    assert expected.name == "expected"
    assert (expected.estimate.value, expected.estimate.high) == pytest.approx((reached.mean(), reached.mean() + reach))
    assert expected.estimate.low == pytest.approx(max(0, reached.mean() - reach))
    assert results.metrics.public
    measured = results.metrics.public.at(0.05)
    assert measured and vars(public.estimate) == measured.model_dump()


def test_a_selection_says_what_to_expect(run: tuple[Path, np.ndarray]):
    chosen = {"chosen": "margin", "targets": 16, "expected": 0.3, "expected_error": 0.01, "results": []}
    change_metrics(run[0], selection=chosen)
    estimate = verdict_of(run[0]).figures[0].estimate
    reach = stats.t.ppf(0.975, 15) * 0.04 * np.sqrt(2 + 1 / 16)
    assert vars(estimate) == pytest.approx({"value": 0.3, "low": 0.3 - reach, "high": 0.3 + reach})


def test_a_strong_attack_is_told_from_guessing_and_a_void_one_is_not(tmp_path: Path):
    make_run(tmp_path / "strong", 3.0)
    make_run(tmp_path / "void", 0.0)
    strong, void = verdict_of(tmp_path / "strong"), verdict_of(tmp_path / "void")
    assert "guessing finds 5." in strong.sentence
    assert "cannot be told from guessing" not in strong.sentence
    assert "cannot be told from guessing" in void.sentence


def test_the_truth_stands_beside_what_was_expected(run: tuple[Path, np.ndarray], tmp_path: Path):
    out, members = run
    with_truth = verdict_of(out, write_truth(tmp_path / "truth.csv", out, members))
    assert [figure.name for figure in with_truth.figures] == ["expected", "public", "private"]
    assert with_truth.sentence.startswith(verdict_of(out).sentence)
    assert f"it found {100 * with_truth.figures[2].estimate.value:.1f} (" in with_truth.sentence


def test_only_a_choice_made_without_them_leaves_the_public_labels_unused(run: tuple[Path, np.ndarray]):
    assert any("named by hand" in remark for remark in verdict_of(run[0]).remarks)
    chosen = {"chosen": "margin", "targets": 16, "expected": 0.3, "expected_error": 0.01, "results": []}
    change_metrics(run[0], selection=chosen)
    assert any("no part in the choice" in remark for remark in verdict_of(run[0]).remarks)


def test_a_target_unlike_its_shadows_is_warned_of(run: tuple[Path, np.ndarray]):
    out, _ = run
    assert not any("unlike its shadows" in remark for remark in verdict_of(out).remarks)
    np.savez(out / "target.npz", phi=load_npz(out / "target.npz")["phi"] + 30)
    assert any("unlike its shadows" in remark for remark in verdict_of(out).remarks)


@pytest.mark.parametrize(
    ("value", "remark"), [(0.01, "below what the shadows promise"), (0.99, "above what the shadow")]
)
def test_a_public_figure_that_contradicts_the_shadows_is_pointed_out(
    run: tuple[Path, np.ndarray], value: float, remark: str
):
    results = read_results(run[0])
    assert results.metrics.public
    public = results.metrics.public.model_dump()
    public["tpr"] = [{"fpr": 0.05, "resampled": {"value": value, "low": value, "high": value}}]
    change_metrics(run[0], public=public)
    assert any(remark in line for line in verdict_of(run[0]).remarks)


def test_a_bound_on_epsilon_is_passed_on_where_there_is_one(run: tuple[Path, np.ndarray]):
    bound = {"lower": None, "delta": 1e-5, "confidence": 0.95}
    change_metrics(run[0], epsilon=bound)
    assert not any("epsilon" in remark for remark in verdict_of(run[0]).remarks)
    change_metrics(run[0], epsilon={**bound, "lower": 0.25})
    assert any("at least epsilon 0.250 at delta 1e-05" in remark for remark in verdict_of(run[0]).remarks)


def test_without_shadows_and_labels_nothing_is_claimed(run: tuple[Path, np.ndarray]):
    change_metrics(run[0], public=None)
    nothing = reach_verdict(read_results(run[0]), [])
    assert nothing.sentence.startswith("Nothing is known")
    assert (nothing.figures, nothing.plot) == ((), None)
