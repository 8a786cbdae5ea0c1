"""What may happen to a run's folder: nothing is lost, and the same command ends as if nothing had happened."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.reliability.conftest import Chunks, Jobs, assert_same, chunks
from tests.reliability.worker import EPOCHS, Moment

pytestmark = pytest.mark.slow

FIRST = "00000-00001.npz"
SECOND = EPOCHS * 3 // 2
"""An epoch in the middle of the second chunk; the first is stored."""
IN_THE_SECOND = Moment("epoch", SECOND, signal.SIGSTOP)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=8m", "none"]
    if subprocess.run(["mount", *options, disk], capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> Path:
    """Takes all that is left; the file that does."""
    path = disk / "filler"
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return path


def goes_on(jobs: Jobs, out: Path, uninterrupted: Chunks) -> list[str]:
    """The same command ends as a run to which nothing happened; what it says."""
    code, said = jobs.run(out)
    assert code == 0, said
    assert_same(out, uninterrupted)
    return said


def ends_in_one_line(code: int, said: list[str], complaint: str) -> None:
    assert code == 1, said
    assert said[-1].startswith("jaxmia: ")
    assert complaint in said[-1]
    assert not any("Traceback" in line for line in said), said


def test_disk_full_in_the_middle(jobs: Jobs, small_disk: Path, uninterrupted: Chunks):
    """Checkpoints fail with a line each; the chunk that cannot be stored ends the run; the stored one stays."""
    out = small_disk / "run"
    job = jobs.start(out, moment=IN_THE_SECOND)
    job.wait_until_stopped()
    before = chunks(out)[FIRST]
    filler = fill(small_disk)
    job.signal(signal.SIGCONT)
    code, said = job.end()
    ends_in_one_line(code, said, "No space left on device")
    np.testing.assert_array_equal(chunks(out)[FIRST]["phi"], before["phi"])
    filler.unlink()
    goes_on(jobs, out, uninterrupted)


def test_disk_full_from_the_start(jobs: Jobs, small_disk: Path, uninterrupted: Chunks):
    filler = fill(small_disk)
    code, said = jobs.run(small_disk / "run")
    ends_in_one_line(code, said, "cannot be written: No space left on device")
    filler.unlink()
    goes_on(jobs, small_disk / "run", uninterrupted)


def test_memory_lost_in_the_middle(jobs: Jobs, tmp_path: Path, uninterrupted: Chunks):
    """Where little address space is left, XLA may compute wrong numbers without an error; none of them is stored."""
    moment = Moment("epoch", SECOND)
    code, said = jobs.start(tmp_path / "run", moment=moment, limit=("RLIMIT_AS", 2**26)).end()
    ends_in_one_line(code, said, "its limit (ulimit -v) is")
    assert list(chunks(tmp_path / "run")) == [FIRST]
    goes_on(jobs, tmp_path / "run", uninterrupted)


def test_permission_lost_in_the_middle(jobs: Jobs, small_disk: Path, uninterrupted: Chunks):
    """The folder becomes read-only, for the administrator too."""
    out = small_disk / "run"
    job = jobs.start(out, moment=IN_THE_SECOND)
    job.wait_until_stopped()
    before = chunks(out)[FIRST]
    remount(small_disk, "ro")
    job.signal(signal.SIGCONT)
    code, said = job.end()
    ends_in_one_line(code, said, "cannot be written: Read-only file system")
    code, said = jobs.run(out)
    ends_in_one_line(code, said, "cannot be written: Read-only file system")
    np.testing.assert_array_equal(chunks(out)[FIRST]["phi"], before["phi"])
    remount(small_disk, "rw")
    goes_on(jobs, out, uninterrupted)


def remount(disk: Path, mode: str) -> None:
    """It is refused for as long as a file is open for writing, as a checkpoint that is being saved."""
    done = subprocess.run(["mount", "-o", f"remount,{mode}", disk], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting again is not permitted: {done.stderr}")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [truncated, emptied, one_bit])
def test_a_chunk_file_is_damaged(jobs: Jobs, tmp_path: Path, uninterrupted: Chunks, harm: Callable[[Path], None]):
    """It is set aside and its models are made again; the others stay as they are."""
    assert jobs.run(tmp_path)[0] == 0
    damaged, whole = tmp_path / "shadows" / "00002-00003.npz", tmp_path / "shadows" / FIRST
    harm(damaged)
    before, content = whole.stat(), damaged.read_bytes()
    said = goes_on(jobs, tmp_path, uninterrupted)
    assert any("00002-00003.npz.damaged" in line for line in said)
    assert damaged.with_name("00002-00003.npz.damaged").read_bytes() == content
    assert (whole.stat().st_ino, whole.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_checkpoint_is_damaged(jobs: Jobs, tmp_path: Path, uninterrupted: Chunks):
    """Every file of the latest is cut in half: the one before it is taken."""
    code, _ = jobs.run(tmp_path, moment=Moment("epoch", SECOND, signal.SIGTERM))
    assert code == 130
    (folder,) = (tmp_path / "checkpoints").iterdir()
    latest = max((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    for path in [path for path in latest.rglob("*") if path.is_file()]:
        truncated(path)
    said = goes_on(jobs, tmp_path, uninterrupted)
    assert any(f"{latest.name}.damaged" in line for line in said)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 6}, "seed is 5 there and 6 here"),
        ({"shadow": {"epochs": EPOCHS + 1}}, f"shadow.epochs is {EPOCHS} there and {EPOCHS + 1} here"),
        ({"query": {"views": ("identity", "vflip")}}, "in other views"),
    ],
)
def test_the_configuration_changed(jobs: Jobs, tmp_path: Path, uninterrupted: Chunks, changes: dict, difference: str):
    """It is refused by the difference, before anything is written."""
    code, _ = jobs.run(tmp_path, moment=Moment("epoch", SECOND, signal.SIGTERM))
    assert code == 130
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, said = jobs.run(tmp_path, changes=changes)
    ends_in_one_line(code, said, difference)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    goes_on(jobs, tmp_path, uninterrupted)


def test_the_configuration_changed_before_the_first_chunk(jobs: Jobs, tmp_path: Path, uninterrupted: Chunks):
    """There is nothing but a checkpoint yet."""
    code, _ = jobs.run(tmp_path, moment=Moment("epoch", EPOCHS // 2, signal.SIGTERM))
    assert code == 130
    code, said = jobs.run(tmp_path, changes={"seed": 6})
    ends_in_one_line(code, said, "seed is 5 there and 6 here")
    goes_on(jobs, tmp_path, uninterrupted)


def test_two_at_once(jobs: Jobs, tmp_path: Path, uninterrupted: Chunks):
    """By mistake, on one folder: each makes what the other does not."""
    both = [jobs.start(tmp_path), jobs.start(tmp_path)]
    for job in both:
        code, said = job.end()
        assert code == 0, said
    found = chunks(tmp_path)
    stored = [model for chunk in found.values() for model in chunk["model"].tolist()]
    assert sorted(stored) == list(range(5)), "each once"
    for chunk in found.values():
        for row, model in enumerate(chunk["model"].tolist()):
            (name, place) = next(
                (name, whole["model"].tolist().index(model))
                for name, whole in uninterrupted.items()
                if model in whole["model"]
            )
            np.testing.assert_allclose(chunk["phi"][row], uninterrupted[name]["phi"][place], atol=1e-3)


def test_one_of_two_is_killed(jobs: Jobs, tmp_path: Path, uninterrupted: Chunks):
    killed = jobs.start(tmp_path, moment=Moment("epoch", EPOCHS // 2, signal.SIGKILL))
    other = jobs.start(tmp_path)
    assert killed.end()[0] == -signal.SIGKILL
    code, said = other.end()
    assert code == 0, said
    goes_on(jobs, tmp_path, uninterrupted)


@pytest.mark.parametrize("year", [1, 60])
def test_the_clock_moved(jobs: Jobs, tmp_path: Path, uninterrupted: Chunks, year: int):
    """To 1971 or 2030, for the processes and for all files, while one trains and before the next."""
    at = year * 365 * 86400

    def move() -> None:
        for path in tmp_path.rglob("*"):
            os.utime(path, (at, at))

    job = jobs.start(tmp_path, moment=IN_THE_SECOND, clock=-1e8)
    job.wait_until_stopped()
    move()
    job.signal(signal.SIGCONT)
    assert job.end()[0] == 0
    (tmp_path / "shadows" / FIRST).unlink()
    code, _ = jobs.run(tmp_path, moment=Moment("epoch", EPOCHS // 2, signal.SIGKILL), clock=1e8)
    assert code == -signal.SIGKILL
    move()
    goes_on(jobs, tmp_path, uninterrupted)


def test_a_finished_run_grows(jobs: Jobs, tmp_path: Path, uninterrupted: Chunks):
    """Two models, then five: the new ones are trained, and all is as if five had been asked for from the start."""
    code, said = jobs.run(tmp_path, changes={"shadow": {"count": 2}})
    assert code == 0, said
    first = tmp_path / "shadows" / FIRST
    before = first.stat()
    said = goes_on(jobs, tmp_path, uninterrupted)
    assert any("training 3 of 5" in line for line in said)
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_finished_run_shrinks(jobs: Jobs, tmp_path: Path):
    """Fewer models than there are: nothing is trained, nothing goes."""
    jobs.run(tmp_path)
    before = chunks(tmp_path).keys()
    code, said = jobs.run(tmp_path, changes={"shadow": {"count": 2}})
    assert code == 0 and "all 2 exist" in said[-2]
    assert "models 2-4 are beyond shadow.count: 2" in said[-1]
    assert chunks(tmp_path).keys() == before
