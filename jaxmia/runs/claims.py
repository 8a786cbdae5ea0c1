"""Claims on models in training, so that jobs which share a run directory do not train the same models twice.

Claims save work; correctness does not depend on them. Whatever happens to claims, files are written atomically, and a
model that two jobs train counts once. So neither locks, which some network file systems lack, nor comparisons of clocks
are needed: a claim from this machine is valid as long as its process lives, and one from another machine as long as its
file keeps changing.
"""

import json
import math
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jaxmia.errors import UnwritableFile, printable
from jaxmia.files import regular_size, write_text

_MAX_BYTES = 16 * 2**20
_FIGURES = ("epoch", "epochs", "loss", "accuracy_in", "accuracy_out", "done", "total", "images_per_second")
_LARGEST = 1e18

HEARTBEAT_SECONDS = 10.0
"""Time between two heartbeats, in seconds."""


@dataclass(frozen=True)
class Lease:
    """Claim of one process on the models that it trains.

    Attributes:
        models: Numbers of the models.
        host: Name of the process's machine.
        pid: Number of the process on that machine.
        machine: Identifier of the machine since its last boot, and of its process table, in which `pid` is unique.
        started: Start time of the process, in the units of that machine.
        token: Random identifier of the process.
        heartbeat: Number of heartbeats so far.
        progress: Progress of the training.
    """

    models: tuple[int, ...]
    host: str
    pid: int
    machine: str
    started: str
    token: str
    heartbeat: int = 0
    progress: Mapping[str, Any] = field(default_factory=dict)

    def is_dead(self) -> bool:
        """Whether its process is known to have ended; False if this machine cannot know."""
        return self.machine == _machine() and _process_start(self.pid) != self.started


def own_lease() -> Lease:
    """Creates a lease of this process, on no models yet."""
    pid = os.getpid()
    return Lease((), platform.node(), pid, _machine(), _process_start(pid), secrets.token_hex(8))


def parse_lease(fields: Any) -> Lease | None:
    """Converts decoded JSON to a lease; returns None if it is not one."""
    try:
        checked = {"models": tuple(fields["models"]), "host": printable(fields["host"])}
        lease = Lease(**{**fields, **checked, "progress": _figures(fields["progress"])})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    texts, counts = (lease.host, lease.machine, lease.started, lease.token), (lease.pid, lease.heartbeat, *lease.models)
    sound = all(type(text) is str for text in texts) and all(type(count) is int and count >= 0 for count in counts)
    return lease if sound and lease.pid else None


class Claims:
    """Directory `claims/` of a run.

    Args:
        folder: Path of the directory.
        heartbeat_seconds: Time between two heartbeats.
    """

    def __init__(self, folder: Path, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self.folder = Path(folder)
        self._heartbeat_seconds = heartbeat_seconds
        self._me = own_lease()
        self.progress: dict[str, Any] = {}
        """Progress that the next heartbeat records."""

    def others(self) -> list[Lease]:
        """Returns the claims of other processes, and removes those of processes that are known to have ended."""
        living = []
        for path, content in self._contents().items():
            lease = _parse(content)
            if lease is None or lease.token == self._me.token:
                continue
            if lease.is_dead():
                _remove(path, lease)
            else:
                living.append(lease)
        return living

    def watch(self, seconds: float) -> None:
        """Watches the claims of other machines for some seconds, and removes those that do not change.

        Claims that cannot be read are treated in the same way.
        """
        before = self._contents()
        time.sleep(seconds)
        for path, content in self._contents().items():
            lease = _parse(content)
            if before.get(path) == content and not (lease and lease.machine == _machine()):
                with suppress(OSError):
                    path.unlink()

    @contextmanager
    def acquire(self, models: Sequence[int]) -> Iterator[bool]:
        """Claims models for the duration of the block; yields False if another process has claimed them first.

        Raises:
            UnwritableFile: The directory cannot be written to.
        """
        path = self.folder / f"{min(models):05d}-{max(models):05d}.json"
        lease = replace(self._me, models=tuple(models))
        if not _create(path, json.dumps(asdict(lease))):
            yield False
            return
        released = threading.Event()
        heart = threading.Thread(target=self._send_heartbeats, args=(path, lease, released), daemon=True)
        heart.start()
        try:
            yield True
        finally:
            released.set()
            heart.join()
            _remove(path, lease)

    def _send_heartbeats(self, path: Path, lease: Lease, released: threading.Event) -> None:
        while not released.wait(self._heartbeat_seconds):
            if not _holds(path, lease):
                return  # taken over by a process that saw no heartbeat
            lease = replace(lease, heartbeat=lease.heartbeat + 1, progress=dict(self.progress))
            with suppress(UnwritableFile):  # the training reports a full disk
                write_text(path, json.dumps(asdict(lease)))

    def _contents(self) -> dict[Path, str]:
        return {path: _content(path) for path in sorted(self.folder.glob("*.json"))}


def _create(path: Path, content: str) -> bool:
    """Creates a file, which never exists without its content; returns False if there is a file already."""
    draft = path.with_name(f".{path.name}.jaxmia-{secrets.token_hex(4)}.tmp")
    try:
        write_text(draft, content)
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        except OSError:  # the file system has no links: two processes at the same moment do the same work
            if path.exists():
                return False
            draft.replace(path)
        return True
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _content(path: Path) -> str:
    try:
        return path.read_text() if regular_size(path) <= _MAX_BYTES else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _parse(content: str) -> Lease | None:
    try:
        lease = parse_lease(json.loads(content))
    except (ValueError, RecursionError):
        return None
    return lease if lease and lease.models else None


def _figures(progress: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps only the figures that `ThroughputMeter` writes, since the writer of a claim need not be trusted."""
    numbers = {name: progress[name] for name in _FIGURES if isinstance(progress.get(name), int | float)}
    stage = {"stage": progress["stage"]} if progress.get("stage") in ("training", "querying") else {}
    return stage | {name: value for name, value in numbers.items() if abs(value) <= _LARGEST or math.isnan(value)}


def _holds(path: Path, lease: Lease) -> bool:
    held = _parse(_content(path))
    return held is not None and held.token == lease.token


def _remove(path: Path, lease: Lease) -> None:
    if _holds(path, lease):
        with suppress(OSError):  # if nothing can be removed, the claim ends with its process
            path.unlink()


def _machine() -> str:
    """Name, boot and process table of this machine; if all three are equal, process numbers are comparable."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _process_start(pid: int) -> str:
    """Start time of a process of this machine; empty if there is no such process."""
    try:
        # The program's name, in brackets, may contain anything; the start is the 20th word after it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return "" if Path("/proc/self").exists() else _seen(pid)
    except (OSError, IndexError):
        return "?"


def _seen(pid: int) -> str:
    """Stands in for the start time where there is no /proc: empty if there is no such process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "?"
