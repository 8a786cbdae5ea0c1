import json
import multiprocessing
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jaxmia.runs.log import EventLog
from jaxmia.runs.progress import Progress, ThroughputMeter
from tests.conftest import Records, telling


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_line_says_when_where_and_what(tmp_path: Path):
    journal = EventLog(tmp_path / "log.jsonl")
    before = datetime.now(UTC).replace(microsecond=0)
    journal.write("epoch", {"models": [0, 1], "loss": 0.5, "accuracy_in": float("nan"), "rate": float("inf")})
    journal.write("end", {"models": 2})
    first, second = lines(tmp_path / "log.jsonl")
    assert (first["event"], first["models"], first["loss"]) == ("epoch", [0, 1], 0.5)
    assert first["accuracy_in"] is None and first["rate"] is None, "what is no number is null, as JSON wants it"
    assert before <= datetime.fromisoformat(first["time"]) <= datetime.now(UTC)
    assert first["host"] == second["host"]
    assert second["event"] == "end"


def write_many(path: Path, name: str) -> None:
    journal = EventLog(path)
    for number in range(300):
        journal.write("epoch", {"name": name, "number": number, "filler": "x" * 500})


def test_lines_of_several_processes_do_not_mix(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    found = lines(path)
    for name in "abc":
        assert [line["number"] for line in found if line["name"] == name] == list(range(300))


def test_a_log_that_cannot_be_written_is_said_once(tmp_path: Path, records: Records):
    journal = EventLog(tmp_path / "nowhere" / "log.jsonl")
    for _ in range(3):
        journal.write("epoch", {})
    assert telling(records, f"{tmp_path / 'nowhere' / 'log.jsonl'}", "No such file or directory") == ["WARNING"]
    assert len(records) == 1


def test_a_log_that_is_a_link_is_not_written_through(tmp_path: Path, records: Records):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "theirs")
    EventLog(tmp_path / "log.jsonl").write("epoch", {})
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert [telling([record], "log.jsonl", "cannot be written") for record in records] == [["WARNING"]]


@pytest.mark.parametrize("read", [False, True], ids=["nobody reads", "somebody reads"])
def test_a_log_that_is_a_pipe_holds_nothing_up(tmp_path: Path, records: Records, read: bool):
    path = tmp_path / "log.jsonl"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if read else None
    log = EventLog(path)
    for _ in range(3):
        log.write("epoch", {"filler": "x" * 10**6})
    if reader is not None:
        os.close(reader)
    assert [telling([record], "log.jsonl", "cannot be written") for record in records] == [["WARNING"]]


def progress(stage: str, done: int, models: tuple[int, ...] = (0, 1)) -> Progress:
    return Progress(stage, models, done, 1000, done / 100, 10, 0.25, 0.9, 0.8)


def test_speed_counts_from_the_first_report_of_a_stage(monkeypatch: pytest.MonkeyPatch):
    """The first includes compilation: 40 s for 100 images; then 200 images in 4 s."""
    times = iter([40.0, 42.0, 44.0, 60.0, 61.0, 100.0])
    monkeypatch.setattr("jaxmia.runs.progress.time.monotonic", lambda: next(times))
    meter = ThroughputMeter()
    speeds = [
        meter(moment)["images_per_second"]
        for moment in (
            progress("training", 100),
            progress("training", 200),
            progress("training", 300),
            progress("querying", 50),
            progress("querying", 80),
            progress("training", 500, (2, 3)),
        )
    ]
    assert speeds == [None, 50.0, 50.0, None, 30.0, None]


def test_a_speed_is_told_after_a_second(monkeypatch: pytest.MonkeyPatch):
    times = iter([0.0, 0.9, 1.0])
    monkeypatch.setattr("jaxmia.runs.progress.time.monotonic", lambda: next(times))
    meter = ThroughputMeter()
    speeds = [meter(progress("querying", done))["images_per_second"] for done in (100, 900, 1000)]
    assert speeds == [None, None, 900.0]


def test_figures_are_those_of_the_progress():
    figures = ThroughputMeter()(progress("training", 300))
    assert figures == {
        "stage": "training",
        "epoch": 3.0,
        "epochs": 10,
        "loss": 0.25,
        "accuracy_in": 0.9,
        "accuracy_out": 0.8,
        "done": 300,
        "total": 1000,
        "images_per_second": None,
    }
