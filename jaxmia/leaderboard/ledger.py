"""The ledger of submissions: every upload with its outcome, and the time of the next allowed upload.

Lines are only appended, so that a team can share one file, by a link or on a network drive. One line is written when an
upload begins and one when its outcome is known; when the file is read, the later line replaces the earlier one.
"""

import errno
import fcntl
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from jaxmia.errors import InputError, UnreadableFile, UnwritableFile, printable

logger = logging.getLogger(__name__)

MAX_WAIT = timedelta(hours=6)
"""Limit to the length of a cooldown, whatever a server or a line of the ledger says."""

_MAX_BYTES = 64 * 2**20
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Outcome(StrEnum):
    """Outcome of an upload, as far as it is known."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    """The server rejected the file or the request, which starts the short cooldown."""
    REFUSED = "refused"
    """The server did not examine the file: wrong key, wrong address, or a redirect."""
    BUSY = "busy"
    """The server asked to try again later."""
    UNSENT = "unsent"
    """The file was not sent completely, so it cannot have been accepted."""
    UNKNOWN = "unknown"
    """The file was sent, but there was no usable answer: it may have been accepted."""


@dataclass(frozen=True)
class Cooldowns:
    """Times that a team has to wait after a submission."""

    success: timedelta = timedelta(minutes=60)
    failure: timedelta = timedelta(minutes=2)


DEFAULT_COOLDOWNS = Cooldowns()


@dataclass(frozen=True)
class Record:
    """One upload.

    Attributes:
        time: Time at which it began.
        url: Base address of the leaderboard.
        task: The task submitted to.
        file: Printable path of the file.
        sha256: Hash of the file's bytes, hexadecimal.
        outcome: Outcome, as far as it is known.
        not_before: Time from which the next upload to this leaderboard and task is allowed.
        submission_id: Identifier that the server gave it.
        score: Score that the server returned.
        answer: Message that was shown to the user.
        id: Identifier shared by all lines about this upload; a line without one is a separate upload.
    """

    time: AwareDatetime
    url: str
    task: str
    file: str
    sha256: str
    outcome: Outcome
    not_before: AwareDatetime
    submission_id: str | None = None
    score: float | None = None
    answer: str = ""
    id: str = field(default="", compare=False)

    @property
    def cooldown(self) -> timedelta:
        """Time from the start of this upload until the next one is allowed."""
        return max(timedelta(0), min(self.not_before - self.time, MAX_WAIT))

    @property
    def is_answered(self) -> bool:
        """Whether the server accepted or rejected the file."""
        return self.outcome in (Outcome.ACCEPTED, Outcome.REJECTED)


_RECORD = TypeAdapter(Record)


def read_ledger(path: Path) -> list[Record]:
    """Reads the latest record of each upload, the oldest upload first; empty if the file does not exist.

    Raises:
        InputError: The file cannot be read, or a line is not a record.
    """
    records: dict[str, Record] = {}
    for number, line in enumerate(_content(path).splitlines(), 1):
        try:
            record = _RECORD.validate_json(line)
        except ValidationError as error:
            reason = error.errors(include_input=False, include_url=False)[0]
            name = ".".join(map(str, reason["loc"])) or "the line"
            raise InputError(
                f"{_shown(path)}: line {number}: {name}: {printable(reason['msg'])}; "
                "correct the line, or remove it to forget that upload"
            ) from error
        id_ = record.id or hashlib.sha256(line).hexdigest()
        records[id_] = replace(record, id=id_)
    return list(records.values())


def append_to_ledger(path: Path, records: Sequence[Record]) -> None:
    """Appends a line for each record; if the disk is full, no partial line remains.

    Raises:
        UnwritableFile: The file cannot be written to.
    """
    lines = b"".join(_RECORD.dump_json(record) + b"\n" for record in records)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
    with _open_regular(path, flags) as descriptor, _refusing(path, "written", UnwritableFile):
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            lines = b"\n" + lines
        try:
            while lines:
                lines = lines[os.write(descriptor, lines) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise


@contextmanager
def ledger_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Locks the ledger during the block, so that only one of several processes at a time decides and uploads.

    The lock is released when its process ends, for whatever reason.

    Args:
        path: The ledger; it is created if it does not exist.
        on_wait: Called before waiting for another process that holds it; may raise.

    Raises:
        UnwritableFile: The file cannot be written to.
    """
    with _open_regular(path, os.O_RDWR | os.O_CREAT) as descriptor:
        with _refusing(path, "locked", UnwritableFile):
            _lock(path, descriptor, on_wait)
        yield


def settled(records: Sequence[Record], now: datetime) -> list[Record]:
    """Records from the future, of a clock that was ahead, as if their uploads, and so their cooldowns, began now."""
    ahead = (record for record in records if record.time > now and record.cooldown)
    return [replace(record, time=now, not_before=now + record.cooldown) for record in ahead]


def time_left(records: Sequence[Record], url: str, task: str, now: datetime) -> timedelta:
    """Rest of the cooldown of one leaderboard and task; zero if it is over.

    If the clock is set back, a cooldown never gets longer than it was when it began.
    """
    spans = [
        record.cooldown - max(now - record.time, timedelta(0))
        for record in records
        if (record.url, record.task) == (url, task)
    ]
    return max([timedelta(0), *spans])


def unanswered(records: Sequence[Record], url: str, task: str, sha256: str) -> Record | None:
    """The latest upload of a file whose outcome is unknown, unless a later upload of it was answered."""
    for record in reversed(records):
        if (record.url, record.task, record.sha256) != (url, task, sha256):
            continue
        if record.outcome is Outcome.UNKNOWN:
            return record
        if record.is_answered:
            return None
    return None


def _content(path: Path) -> bytes:
    with _refusing(path, "read", UnreadableFile):
        if not Path(path).exists():
            return b""
    with (
        _open_regular(path, os.O_RDONLY) as descriptor,
        _refusing(path, "read", UnreadableFile),
        os.fdopen(descriptor, "rb", closefd=False) as file,
    ):
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise InputError(f"{_shown(path)}: is larger than {_MAX_BYTES:,} bytes")
    return content


def _lock(path: Path, descriptor: int, on_wait: Callable[[], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning(f"{_shown(path)}: its file system has no locks; do not submit twice at the same time")


@contextmanager
def _open_regular(path: Path, flags: int) -> Iterator[int]:
    """Opens a regular file. Links are followed; pipes and devices, which might block, are rejected."""
    refused = UnreadableFile if flags == os.O_RDONLY else UnwritableFile
    with _refusing(path, "opened", refused):
        if flags & os.O_CREAT:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise refused(f"{_shown(path)}: is not a regular file, expected one that can be appended to")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _refusing(path: Path, done: str, kind: type[InputError]) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise kind(f"{_shown(path)}: cannot be {done}: {reason}") from error


def _shown(path: Path) -> str:
    return printable(str(path))
