import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxmia.config import AttackConfig
from jaxmia.files import load_npz
from jaxmia.pipeline.fuse import fuse
from jaxmia.pipeline.scoring import score
from jaxmia.report.results import Results, read_results
from jaxmia.report.sections import show_attacks, show_roc
from jaxmia.report.verdict import reach_verdict


@pytest.fixture
def aligned(run: tuple[Path, np.ndarray]) -> Results:
    """A run whose target is so unlike its shadows that the selected attack is aligned."""
    out, _ = run
    np.savez(out / "target.npz", phi=load_npz(out / "target.npz")["phi"] + 30)
    score(out, AttackConfig())
    return read_results(out)


def test_an_attack_aligned_for_the_target_alone_is_highlighted_and_paired_with_what_was_measured(aligned: Results):
    selection = aligned.metrics.selection
    assert selection
    assert selection.chosen == f"{selection.candidate}-aligned"
    assert selection.measured == selection.candidate  # no candidate has the aligned form
    section = show_attacks(aligned)
    (table,) = section.tables
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.strong == selection.chosen
    assert rows[selection.chosen][0] == f"{rows[selection.candidate][0]} without alignment"
    assert rows[selection.chosen][1] != rows[selection.candidate][1] != "not measured"
    assert f"{selection.candidate}, submitted in aligned form, is highlighted" in section.plots[0].caption
    assert f"The submitted attack is {selection.chosen}" in section.text[0]
    assert reach_verdict(aligned, None).figures[0].basis.endswith("without alignment")


def test_an_attack_that_is_submitted_as_it_was_measured_is_highlighted_plainly(run: tuple[Path, np.ndarray]):
    results = read_results(run[0])
    section = show_attacks(results)
    assert section.tables[0].strong == "lira-online-global"
    assert "the submitted attack is highlighted" in section.plots[0].caption
    assert "alignment" not in str(section.tables) + str(reach_verdict(results, None).figures)


def test_runs_are_called_by_their_folders_where_they_are_fused(run: tuple[Path, np.ndarray], tmp_path: Path):
    other = shutil.copytree(run[0], tmp_path / "other")
    score(other, AttackConfig(name="margin"))
    fuse(tmp_path / "fused", [run[0], other])
    fused = read_results(tmp_path / "fused")
    (table,) = show_attacks(fused).tables
    assert {row[0] for row in table.rows} == {"fusion", str(run[0]), str(other)}
    assert "seudo-target" not in show_roc(fused, []).plots[0].caption
    assert "dotted" in show_roc(fused, []).plots[0].caption
    fine = replace(fused, metrics=fused.metrics.model_copy(update={"fpr": 0.001}))
    assert "dotted" not in show_roc(fine, []).plots[0].caption, "the line would be left of the axes"
