"""Half-written files of processes that were killed."""

import logging
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from jaxmia.files import is_half_written
from jaxmia.runs.claims import Claims
from jaxmia.runs.rundir import RunDir

logger = logging.getLogger(__name__)


def clear_leftovers(out: Path, seconds: float = 1.0) -> None:
    """Removes what killed processes have half written in a run's folder.

    Only what has a name that `atomic_write` gives, in the folder itself, its folders, and those of checkpoints; links
    are not followed. Nothing is removed while another process holds a claim there, none of the files that a process of
    this machine has open, and none that changes meanwhile. Should a file go that another machine is writing all the
    same, its process ends with one line, and the same command makes again what the file was to hold.

    Args:
        out: The run's folder.
        seconds: Between two looks: a file that another machine is writing without a claim (they are small) changes or
            goes.
    """
    before = _seen(out)
    # In this order: who wrote then either has a claim now, or has finished the file.
    if not before or Claims(RunDir(out).claims).others():
        return
    time.sleep(seconds)
    after, used = _seen(out), set(_open_files())
    dead = [path for path, state in before.items() if after.get(path) == state and state[:2] not in used]
    for path in dead:
        with suppress(OSError):
            path.unlink()
    if dead:
        logger.info(
            f"{out}: removed {len(dead)} half-written file{'s' if len(dead) > 1 else ''} of a process that was killed"
        )


def _seen(out: Path) -> dict[Path, tuple[int, int, int, int]]:
    """The half-written files, and what tells whether they change: device, inode, size, time of change."""
    found = {}
    below, checkpoints = _folders(out), RunDir(out).checkpoints
    folders = [out, *below, *(_folders(checkpoints) if checkpoints in below else [])]
    for path in (path for folder in folders for path in folder.glob(".*.tmp") if is_half_written(path)):
        with suppress(OSError):
            state = path.lstat()
            if stat.S_ISREG(state.st_mode):
                found[path] = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    return found


def _folders(parent: Path) -> list[Path]:
    """The folders in a folder; none that is elsewhere and only linked here."""
    return [path for path in parent.glob("*") if path.is_dir() and not path.is_symlink()]


def _open_files() -> Iterator[tuple[int, int]]:
    """Device and inode of all files that processes of this machine have open, as far as they may be seen."""
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            state = path.stat()
            yield state.st_dev, state.st_ino
