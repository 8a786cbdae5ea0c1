import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from jaxmia.errors import InputError
from jaxmia.runs import claims as module
from jaxmia.runs.claims import Claims, Lease


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "claims"


def write(folder: Path, claim: Lease) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{claim.models[0]:05d}-{claim.models[-1]:05d}.json"
    path.write_text(json.dumps(asdict(claim)))
    return path


def claim_of(folder: Path, models: list[int]) -> Lease:
    """What another process of this machine would claim."""
    with Claims(folder).acquire(models) as won:
        assert won
        (claim,) = Claims(folder).others()
    return claim


def test_a_claim_is_seen_by_others_for_as_long_as_it_is_held(folder: Path):
    mine, theirs = Claims(folder), Claims(folder)
    assert theirs.others() == []
    with mine.acquire([3, 5]) as won:
        assert won
        assert mine.others() == []
        (seen,) = theirs.others()
        assert (seen.models, seen.pid) == ((3, 5), os.getpid())
        with theirs.acquire([3, 5]) as second:
            assert not second
        assert theirs.others() == [seen], "who did not win takes nothing away"
    assert theirs.others() == []
    assert list(folder.iterdir()) == []


def test_the_claim_of_a_process_that_ended_is_removed_at_once(folder: Path):
    code = f"""
import os, signal
from pathlib import Path
from jaxmia.runs.claims import Claims
with Claims(Path({str(folder)!r})).acquire([0, 1]):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert len(list(folder.iterdir())) == 1
    assert Claims(folder).others() == []
    assert list(folder.iterdir()) == []


def test_another_process_with_the_same_number_is_another(folder: Path):
    """Process numbers come again; when the process began tells them apart."""
    claim = claim_of(folder, [0])
    assert not claim.is_dead()
    assert replace(claim, started="1").is_dead()
    assert not replace(claim, started="1", machine="another").is_dead(), "numbers of another machine mean nothing here"


def test_a_claim_of_another_machine_lives_as_long_as_it_changes(folder: Path):
    far = replace(claim_of(folder, [0, 1]), machine="another", host="far")
    dead, alive = write(folder, far), replace(far, models=(2, 3), token="other")
    path = write(folder, alive)
    claims = Claims(folder)
    assert {claim.models for claim in claims.others()} == {(0, 1), (2, 3)}
    changed = replace(alive, heartbeat=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "sleep", lambda seconds: path.write_text(json.dumps(asdict(changed))))
        claims.watch(30)
    assert claims.others() == [changed]
    assert not dead.exists()


@pytest.mark.parametrize("shift", [-1e7, 1e7])
def test_clocks_mean_nothing(folder: Path, shift: float, monkeypatch: pytest.MonkeyPatch):
    """Of files, or of this machine: a living claim stays, a dead one goes."""
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    alive = claim_of(folder, [0])
    for claim in (alive, replace(alive, models=(1,), started="1"), replace(alive, models=(2,), machine="another")):
        path = write(folder, claim)
        now = path.stat().st_mtime
        os.utime(path, (now + shift, now + shift))
    claims = Claims(folder)
    claims.others()
    claims.watch(30)
    assert claims.others() == [alive]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"models": [0]}', '{"models": 3}', "\x00\xff"])
def test_a_claim_that_cannot_be_read_holds_until_it_was_watched(folder: Path, content: str, monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    folder.mkdir()
    (folder / "00000-00000.json").write_text(content)
    claims = Claims(folder)
    assert claims.others() == []
    with claims.acquire([0]) as won:
        assert not won
    claims.watch(30)
    with claims.acquire([0]) as won:
        assert won


def test_a_held_claim_changes_and_tells_progress(folder: Path):
    mine, theirs = Claims(folder, heartbeat_seconds=0.01), Claims(folder)
    mine.progress = {"epoch": 3}
    with mine.acquire([0]):
        while not (seen := theirs.others()) or seen[0].heartbeat < 2:
            pass
        assert seen[0].progress == {"epoch": 3}


def test_a_claim_that_was_taken_over_is_left_alone(folder: Path):
    other = replace(claim_of(folder, [0]), token="other")
    mine = Claims(folder, heartbeat_seconds=0.2)
    with mine.acquire([0]):
        path = write(folder, other)  # long before the first beat
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            time.sleep(0.01)
            assert json.loads(path.read_text())["token"] == "other"
    assert path.exists()


def test_without_links_a_claim_is_made_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    with Claims(folder).acquire([0]) as first, Claims(folder).acquire([0]) as second:
        assert (first, second) == (True, False)
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    claim = Claims(tmp_path / "file").acquire([0])
    with pytest.raises(InputError, match=r"file/\..+\.tmp: cannot be written: (File exists|Not a directory)"), claim:
        pass
