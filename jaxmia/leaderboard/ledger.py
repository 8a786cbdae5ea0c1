"""The ledger of submissions: what was sent where, what came back, and when the next one is allowed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from jaxmia.errors import InputError
from jaxmia.files import write_text


class Outcome(StrEnum):
    """What is known about one upload."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    """The server judged the file or the request and said no; this begins the short cooldown."""
    REFUSED = "refused"
    """The server did not get as far as the file: wrong key, wrong address, moved."""
    BUSY = "busy"
    """The server asked to come back later."""
    UNSENT = "unsent"
    """The file never left whole, so it cannot have been accepted."""
    UNKNOWN = "unknown"
    """The file left, no usable answer came: it may have been accepted."""


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
        file: The file's path as the user gave it.
        sha256: Of the file's bytes, hexadecimal.
        outcome: What is known about it.
        not_before: When the next upload to this leaderboard and task is allowed.
        submission_id: As the server named it.
        score: As the server told it.
        answer: What the user was told.
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


_RECORD = TypeAdapter(Record)


def read_ledger(path: Path) -> list[Record]:
    """Reads the records of a ledger, oldest first; none if there is no such file.

    Raises:
        InputError: The file cannot be read, or a line is no record.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_RECORD.validate_json(line))
        except ValidationError as error:
            reason = error.errors(include_input=False, include_url=False)[0]
            field = ".".join(map(str, reason["loc"])) or "the line"
            raise InputError(
                f"{path}: line {number}: {field}: {reason['msg']}; mend the line, or remove it to forget that upload"
            ) from error
    return records


def write_ledger(path: Path, records: Sequence[Record]) -> None:
    """Writes records as JSON lines, whole or not at all."""
    write_text(path, "".join(_RECORD.dump_json(record).decode() + "\n" for record in records))


def time_left(records: Sequence[Record], url: str, task: str, now: datetime) -> timedelta:
    """How long the cooldown of one leaderboard and task still lasts; zero when it is over.

    A clock that was set back lengthens no cooldown beyond what it was when it began.
    """
    spans = [
        min(record.not_before - now, record.not_before - record.time)
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
        if record.outcome in (Outcome.ACCEPTED, Outcome.REJECTED):
            return None
    return None
