import io
import logging

import pytest
from rich.console import Console

from jaxmia.cli import display
from jaxmia.cli.display import bench_table, match_table, progress_bar, selection_table
from jaxmia.evaluation.selection import CandidateResult
from jaxmia.runs import progress
from jaxmia.runs.metrics import SelectionSummary
from jaxmia.runs.progress import Progress


def shown(selection: SelectionSummary) -> list[str]:
    """Names and marks of the rows of a selection's table."""
    table = selection_table(selection)
    names, marks = list(table.columns[0].cells), list(table.columns[-1].cells)
    return [f"{name}: {mark}" for name, mark in zip(names, marks, strict=True) if mark]


def selection(candidate: str, *names: str, aligned: bool) -> SelectionSummary:
    rows = [CandidateResult(name, 0.5 - 0.01 * place, 0.1, 0.6) for place, name in enumerate(names)]
    chosen = f"{candidate}-aligned" if aligned else candidate
    return SelectionSummary(
        chosen=chosen, candidate=candidate, fpr=0.05, targets=4, expected=0.5, expected_error=0.1, results=tuple(rows)
    )


def test_one_attack_is_marked_as_chosen():
    names = ("adaptive", "adaptive-aligned")
    assert shown(selection("adaptive", *names, aligned=False)) == ["adaptive: chosen"]
    assert shown(selection("adaptive-aligned", *names, aligned=False)) == ["adaptive-aligned: chosen"]
    assert shown(selection("adaptive", *names, aligned=True)) == ["adaptive-aligned: chosen"]
    assert shown(selection("adaptive", "adaptive", aligned=True)) == ["adaptive: chosen, measured without alignment"]


def test_the_submitted_attack_is_named_where_it_is_aligned_for_this_target():
    assert selection_table(selection("adaptive", "adaptive", aligned=True)).caption == "submitted: adaptive-aligned"
    assert selection_table(selection("adaptive", "adaptive", aligned=False)).caption is None


def test_the_chosen_one_is_shown_however_far_behind():
    names = [f"attack-{number}" for number in range(20)]
    assert shown(selection("attack-19", *names, aligned=False)) == ["attack-19: chosen"]
    assert shown(selection("attack-19", *names, aligned=True)) == ["attack-19: chosen, measured without alignment"]


def test_progress_tells_only_what_is_known(monkeypatch: pytest.MonkeyPatch):
    clock, page = [100.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(display, "console", Console(file=page, width=200, highlight=False))
    display.show_messages(logging.INFO)
    with progress_bar("shadows") as on_progress:
        on_progress(Progress("training", [0, 1], 100, 400, 1, 4, 1.25))
        clock[0] += 40
        on_progress(Progress("training", [0, 1], 300, 400, 3, 4, 0.5, 0.9, 0.8))
        clock[0] += 1
        on_progress(Progress("training", [0, 1], 350, 400, 3.5, 4, 0.5, 0.9, 0.8))  # too soon for another line
        on_progress(Progress("querying", [0, 1], 50, 50, 4, 4))
    assert page.getvalue().splitlines() == [
        "shadows 0-1 training 25% epoch 1/4 loss 1.250",
        "shadows 0-1 training 75% epoch 3/4 loss 0.500 accuracy IN 0.900 OUT 0.800 5 images/s",
        "shadows 0-1 querying 100%",
    ]


@pytest.mark.parametrize(("rate", "written"), [(1013.4, "1,010"), (742.9, "743"), (0.0314159, "0.0314")])
def test_models_an_hour_have_three_digits_that_count(rate: float, written: str):
    row = {"name": "native", "width": 2, "images_per_second": 5.0, "models_per_hour": rate, "share_of_ceiling": 0.5}
    row |= {"compile_seconds": 1.0, "bytes": None, "peak_bytes": None, "kind": "jaxmia", "failure": None}
    origin = {"device": "a device"}
    result = {
        "origin": origin,
        "scale": {"ceilings": {"float32": 1e9}},
        "subject": {"shadow": {"architecture": "cnn"}},
        "rows": [row],
    }
    assert list(bench_table(result).columns[3].cells) == [written]


def test_the_numbers_of_a_shard_are_counted_where_some_are_left_out(monkeypatch: pytest.MonkeyPatch):
    page = io.StringIO()
    monkeypatch.setattr(display, "console", Console(file=page, width=200, highlight=False))
    display.show_messages(logging.INFO)
    for models in ([1, 3, 5, 7], [4], [2, 3, 3]):
        with progress_bar("shadows") as on_progress:
            on_progress(Progress("querying", models, 50, 50, 4, 4))
    assert page.getvalue().splitlines() == [
        "shadows 1-7 (4 of them) querying 100%",
        "shadows 4 querying 100%",
        "shadows 2-3 querying 100%",
    ]


def test_a_table_that_ends_early_says_so():
    names = [f"attack-{number}" for number in range(20)]
    table = selection_table(selection("attack-0", *names, aligned=False))
    assert table.caption == "8 more attacks are not shown; metrics.json lists them"


def test_a_search_shows_how_far_each_recipe_is_behind_the_best():
    figures = {"energy_score": 0.7, "std_error": 0.05, "accuracy_in": 1.0, "accuracy_out": 0.9}
    trials = [
        {"recipe": {"epochs": 25}, **figures, "gap_to_best": 0.0, "gap_std_error": 0.0},
        {"recipe": {"epochs": 40}, **figures, "energy_score": 2.0, "gap_to_best": 1.3, "gap_std_error": 0.04},
        {"recipe": {"epochs": 80}, **figures, "energy_score": None, "gap_to_best": None, "gap_std_error": None},
    ]
    table = match_table({"target": {"accuracy_in": 1.0, "accuracy_out": 0.9}, "models": 3, "trials": trials})
    assert list(table.columns[1].cells) == ["0.700 ± 0.050", "2.000 ± 0.050", "diverged"]
    assert list(table.columns[2].cells) == ["0.000 ± 0.000", "1.300 ± 0.040", "-"]
    assert [column.header for column in table.columns[3:]] == ["accuracy IN", "accuracy OUT"]
