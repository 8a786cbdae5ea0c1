"""The ledger of submissions: what was sent where, what came back, and when the next upload is allowed.

Lines are only ever appended, so that a team may share one file, by a link or on a network drive. An upload has one line
when it begins and one when its outcome is known; the later line replaces the earlier when the file is read.
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

from jaxmia.errors import InputError, printable

logger = logging.getLogger(__name__)

MAX_WAIT = timedelta(hours=6)
"""No cooldown is taken to last longer, whatever a server or a line of the ledger says."""

_MAX_BYTES = 64 * 2**20
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Outcome(StrEnum):
    """What is known about one upload."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    """The server judged the file or the request and said no; this begins the short cooldown."""
    REFUSED = "refused"
    """The server did not get as far as the file: wrong key, wrong address, moved."""
    BUSY = "busy"
    """The server asked to try again later."""
    UNSENT = "unsent"
    """The file never left whole, so it cannot have been accepted."""
    UNKNOWN = "unknown"
    """The file left, but no usable answer came: it may have been accepted."""


@dataclass(frozen=True)
class Cooldowns:
    """How long a team waits after a submission."""

    success: timedelta = timedelta(minutes=60)
    failure: timedelta = timedelta(minutes=2)


DEFAULT_COOLDOWNS = Cooldowns()


@dataclass(frozen=True)
class Record:
    """One upload.

    Attributes:
        time: When it began.
        url: Base address of the leaderboard.
        task: The task submitted to.
        file: Path of the file, as it may be shown.
        sha256: Hash of the file's bytes, hexadecimal.
        outcome: What is known about it.
        not_before: When the next upload to this leaderboard and task is allowed.
        submission_id: Name that the server gave it.
        score: Score that the server returned.
        answer: Message that the user saw.
        id: Identifier shared by all lines about this upload; a line without one is an upload of its own.
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
        """How long the next upload has to wait after this one began."""
        return max(timedelta(0), min(self.not_before - self.time, MAX_WAIT))

    @property
    def is_answered(self) -> bool:
        """Whether the server judged the file."""
        return self.outcome in (Outcome.ACCEPTED, Outcome.REJECTED)


_RECORD = TypeAdapter(Record)


def read_ledger(path: Path) -> list[Record]:
    """Reads what is known of each upload, the oldest first; nothing if there is no such file.

    Raises:
        InputError: The file cannot be read, or a line is no record.
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
                "mend the line, or remove it to forget that upload"
            ) from error
        id_ = record.id or hashlib.sha256(line).hexdigest()
        records[id_] = replace(record, id=id_)
    return list(records.values())


def append_to_ledger(path: Path, records: Sequence[Record]) -> None:
    """Appends a line for each record; on a full disk none is left in part.

    Raises:
        InputError: The file cannot be written to.
    """
    lines = b"".join(_RECORD.dump_json(record) + b"\n" for record in records)
    with _open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT) as descriptor, _refusing(path, "written"):
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
    """Holds the ledger for the block, so that of several processes one at a time decides and uploads.

    The lock ends with its process, however that ends.

    Args:
        path: The ledger; an empty one is made if there is none.
        on_wait: Called before waiting for another process that holds it; may raise.

    Raises:
        InputError: The file cannot be written to.
    """
    with _open_regular(path, os.O_RDWR | os.O_CREAT) as descriptor:
        with _refusing(path, "locked"):
            _lock(path, descriptor, on_wait)
        yield


def settled(records: Sequence[Record], now: datetime) -> list[Record]:
    """Records of a clock that ran ahead, as if they had begun now: their cooldowns end that long after now."""
    ahead = (record for record in records if record.time > now and record.cooldown)
    return [replace(record, time=now, not_before=now + record.cooldown) for record in ahead]


def time_left(records: Sequence[Record], url: str, task: str, now: datetime) -> timedelta:
    """How long the cooldown of one leaderboard and task still lasts; zero when it is over.

    A clock that was set back lengthens no cooldown beyond what it was when it began.
    """
    spans = [
        record.cooldown - max(now - record.time, timedelta(0))
        for record in records
        if (record.url, record.task) == (url, task)
    ]
    return max([timedelta(0), *spans])


def unanswered(records: Sequence[Record], url: str, task: str, sha256: str) -> Record | None:
    """The latest upload of a file that may have been accepted without our knowing, unless an answer came since."""
    for record in reversed(records):
        if (record.url, record.task, record.sha256) != (url, task, sha256):
            continue
        if record.outcome is Outcome.UNKNOWN:
            return record
        if record.is_answered:
            return None
    return None


def _content(path: Path) -> bytes:
    with _refusing(path, "read"):
        if not Path(path).exists():
            return b""
    with (
        _open_regular(path, os.O_RDONLY) as descriptor,
        _refusing(path, "read"),
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
    """Descriptor of a regular file. Links are followed; a pipe or a device, which might block, is refused."""
    with _refusing(path, "opened"):
        if flags & os.O_CREAT:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError(f"{_shown(path)}: is not a regular file, expected one that can be appended to")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _refusing(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{_shown(path)}: cannot be {done}: {reason}") from error


def _shown(path: Path) -> str:
    return printable(str(path))
