import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from jaxmia.files import atomic_write, is_half_written
from jaxmia.runs.claims import Claims
from jaxmia.runs.cleanup import clear_leftovers
from tests.conftest import Records, log_records, telling

NAMES = (
    ".config.yaml.jaxmia-abcdefg1.tmp",
    "shadows/.00000-00001.npz.jaxmia-abcdefg2.tmp",
    "claims/.00000-00001.json.jaxmia-01234567.tmp",
    "weights/.00000-00001.npz.jaxmia-abcdefg3.tmp",
    "checkpoints/00000-00001/.about.json.jaxmia-abcdefg_.tmp",
)
KEPT = (
    "config.yaml",
    "shadows/00000-00001.npz",
    "notes.tmp",
    "shadows/.hidden",
    "checkpoints/0-1/8/d/.x.jaxmia-abcdefgh.tmp",
    ".theirs.tmp",
    "shadows/.draft.txt.tmp",
    "notes/.report.odt.x1.tmp",
    ".jaxmia-abcdefgh.tmp.txt",
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in (*NAMES, *KEPT):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    return tmp_path


def clear(run: Path) -> Records:
    with log_records() as records:
        clear_leftovers(run, seconds=0)
    return records


def there(run: Path, names: tuple[str, ...]) -> list[bool]:
    return [(run / name).exists() for name in names]


def test_half_written_files_go_and_nothing_else(run: Path):
    assert telling(clear(run), f"{run}", "removed 5") == ["INFO"]
    assert not any(there(run, NAMES))
    assert all(there(run, KEPT))
    assert clear(run) == []


def test_what_atomic_write_leaves_is_known_by_its_name(tmp_path: Path):
    with atomic_write(tmp_path / "a.npz"), Claims(tmp_path).acquire([3]):
        (half,) = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        assert is_half_written(half)


def test_links_are_not_followed(run: Path, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / ".a.npz.jaxmia-abcdefgh.tmp").write_text("another run's")
    (run / "linked").symlink_to(elsewhere)
    (run / ".b.npz.jaxmia-abcdefgh.tmp").symlink_to(elsewhere / ".a.npz.jaxmia-abcdefgh.tmp")
    (run / "checkpoints" / "linked").symlink_to(elsewhere)
    assert len(clear(run)) == 1
    assert (elsewhere / ".a.npz.jaxmia-abcdefgh.tmp").read_text() == "another run's"
    assert (run / ".b.npz.jaxmia-abcdefgh.tmp").is_symlink()


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
        assert telling(clear(run), f"{run}", "removed 4") == ["INFO"]
        assert (run / NAMES[1]).exists()
        writer.communicate()
    assert len(clear(run)) == 1
    assert not (run / NAMES[1]).exists()


def test_a_file_that_changes_stays(run: Path, monkeypatch: pytest.MonkeyPatch):
    """As one that another machine is writing."""
    path = run / NAMES[0]
    monkeypatch.setattr("time.sleep", lambda seconds: path.write_text("half and more"))
    clear(run)
    assert there(run, NAMES) == [True, False, False, False, False]


def test_an_old_clock_makes_nobody_dead_or_alive(run: Path):
    for name, at in zip(NAMES, (0, 1e9, 2e9, 3e9, 4e9), strict=True):
        os.utime(run / name, (at, at))
    clear(run)
    assert not any(there(run, NAMES))


def test_without_leftovers_nothing_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("slept"))
    assert clear(tmp_path) == []
    assert clear(tmp_path / "nowhere") == []
