import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from jaxmia.runs import cleanup as leftovers
from jaxmia.runs.claims import Claims
from jaxmia.runs.cleanup import clear_leftovers
from tests.conftest import log_messages

NAMES = (
    ".config.yaml.x1.tmp",
    "shadows/.00000-00001.npz.x2.tmp",
    "claims/.0123.tmp",
    "weights/.00000-00001.npz.x3.tmp",
    "checkpoints/00000-00001/.about.json.x4.tmp",
)
KEPT = ("config.yaml", "shadows/00000-00001.npz", "notes.tmp", "shadows/.hidden", "checkpoints/0-1/8/d/.x.tmp")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leftovers, "_SECONDS", 0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in (*NAMES, *KEPT):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    return tmp_path


def clear(run: Path) -> list[str]:
    with log_messages() as messages:
        clear_leftovers(run)
    return messages


def there(run: Path, names: tuple[str, ...]) -> list[bool]:
    return [(run / name).exists() for name in names]


def test_half_written_files_go_and_nothing_else(run: Path):
    assert clear(run) == [f"{run}: removed 5 half-written files of a process that was killed"]
    assert not any(there(run, NAMES))
    assert all(there(run, KEPT))
    assert clear(run) == []


def test_while_another_process_has_a_claim_nothing_goes(run: Path):
    with Claims(run / "claims").acquire([0, 1]):
        assert clear(run) == []
    assert all(there(run, NAMES))
    (run / "claims" / "00000-00001.json").unlink(missing_ok=True)
    with Claims(run / "claims").acquire([0, 1]):
        (claim,) = Claims(run / "claims").others()
    (run / "claims" / "00000-00001.json").write_text(json.dumps(asdict(replace(claim, started="1"))))
    assert len(clear(run)) == 1, "the claim of a process that has ended holds nothing up"


def test_a_file_that_a_process_has_open_stays(run: Path):
    code = "import sys; file = open(sys.argv[1], 'ab'); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(run / NAMES[1])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert clear(run) == [f"{run}: removed 4 half-written files of a process that was killed"]
        assert (run / NAMES[1]).exists()
        writer.communicate()
    assert len(clear(run)) == 1
    assert not (run / NAMES[1]).exists()


def test_a_file_that_changes_stays(run: Path, monkeypatch: pytest.MonkeyPatch):
    """As one that another machine is writing."""
    path = run / NAMES[0]
    monkeypatch.setattr(leftovers.time, "sleep", lambda seconds: path.write_text("half and more"))
    clear(run)
    assert there(run, NAMES) == [True, False, False, False, False]


def test_an_old_clock_makes_nobody_dead_or_alive(run: Path):
    for name, at in zip(NAMES, (0, 1e9, 2e9, 3e9, 4e9), strict=True):
        os.utime(run / name, (at, at))
    clear(run)
    assert not any(there(run, NAMES))


def test_without_leftovers_nothing_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leftovers.time, "sleep", lambda seconds: pytest.fail("slept"))
    assert clear(tmp_path) == []
    assert clear(tmp_path / "nowhere") == []
