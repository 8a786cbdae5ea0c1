"""Removes half-written files of killed processes."""

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
    """Removes half-written files of killed processes from a run directory.

    Only temporary files of `atomic_write` are removed, in the directory itself, its folders and those of checkpoints;
    links are not followed. Files stay if another process holds a claim in the directory, if a process of this machine
    has them open, or if they change in the meantime. If a file that another machine is writing is removed nevertheless,
    that process ends with one line, and the same command writes the file again.

    Args:
        out: Run directory.
        seconds: Time between two checks. A (small) file that another machine is writing without a claim is expected to
            change or disappear within it.
    """
    before = _seen(out)
    # In this order: a process that was writing then has a claim now or has finished the file.
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
    """The half-written files with device, inode, size and modification time, by which changes are detected."""
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
    """The folders in a folder, without links to folders elsewhere."""
    return [path for path in parent.glob("*") if path.is_dir() and not path.is_symlink()]


def _open_files() -> Iterator[tuple[int, int]]:
    """Device and inode of all files that visible processes of this machine have open."""
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            state = path.stat()
            yield state.st_dev, state.st_ino
