"""The leaderboard client: validates, keeps to the cooldown, uploads, and remembers what came of it."""

import hashlib
import math
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr
from rich.console import Console

from jaxmia.errors import InputError
from jaxmia.leaderboard.ledger import (
    DEFAULT_COOLDOWNS,
    Cooldowns,
    Outcome,
    Record,
    read_ledger,
    time_left,
    unanswered,
    write_ledger,
)
from jaxmia.leaderboard.submission import broken_rules, read_bytes
from jaxmia.leaderboard.upload import DEFAULT_LIMITS, Answer, Limits, upload

URL, KEY, TASK = "JAXMIA_LEADERBOARD_URL", "JAXMIA_API_KEY", "JAXMIA_TASK"
DEFAULT_TASK = "01-mia"
DEFAULT_LEDGER = Path("submissions.jsonl")
"""In the working directory, beside `.env`: a cooldown is the team's, so it spans the folders of several runs."""

_SHORT_WAIT = timedelta(minutes=1)
_BUSY_RETRIES = 3
_INTERRUPTED = "interrupted before an answer came; the file may have been accepted"

# Quotes and backslashes change when text is quoted, and a key that has changed could not be found and cut out.
_KEY = re.compile(r"""[^\x00-\x20"'\\\x7f-\U0010ffff]+""")
_TASK = re.compile(r"[A-Za-z0-9._-]+")
_ENV_LINE = re.compile(r"""(?:export\s+)?(JAXMIA_\w+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"']*))(?:\s+#.*)?""")


@dataclass(frozen=True)
class Leaderboard:
    """Where to submit and as whom.

    Attributes:
        url: Base address; the file goes to `{url}/submit/{task}`.
        task: Name of the task.
        key: The team's key; `repr`, logs and dumps show asterisks.

    Raises:
        InputError: A setting is missing or malformed. The message never quotes the key.
    """

    url: str
    task: str
    key: SecretStr

    def __post_init__(self) -> None:
        key = self.key.get_secret_value()
        if not key:
            raise InputError(f"{KEY} is not set; set it in the environment or in a file .env, one line {KEY}=...")
        if not _KEY.fullmatch(key):
            raise InputError(f"{KEY}: holds a space, a quote, a backslash or a character outside ASCII; copy it again")
        object.__setattr__(self, "url", _checked_url(self.url, key))
        if not _TASK.fullmatch(self.task) or self.task.strip(".") == "":
            raise InputError(f"{TASK}: {self.task!r} is no task, expected letters, digits, '.', '_', '-'")

    @property
    def endpoint(self) -> str:
        """The address that takes the file."""
        return f"{self.url}/submit/{self.task}"


def read_settings(
    url: str | None = None,
    task: str | None = None,
    environ: Mapping[str, str] = os.environ,
    env_file: Path = Path(".env"),
) -> Leaderboard:
    """Gathers the settings: an argument wins over the environment, the environment over the file.

    There is no argument for the key: command lines are public on a shared machine.

    Args:
        url: Base address, instead of `JAXMIA_LEADERBOARD_URL`.
        task: Task, instead of `JAXMIA_TASK`, which is `01-mia` by default.
        environ: The environment.
        env_file: Lines `NAME=value`, of which those named `JAXMIA_...` are read. It need not exist.

    Raises:
        InputError: A setting is missing or malformed, or a line of the file is.
    """
    in_file = _read_env_file(env_file)

    def setting(name: str, default: str = "") -> str:
        return environ.get(name) or in_file.get(name) or default

    return Leaderboard(url or setting(URL), task or setting(TASK, DEFAULT_TASK), SecretStr(setting(KEY)))


def submit(
    path: Path,
    private_ids: Sequence[str],
    board: Leaderboard,
    *,
    ledger: Path = DEFAULT_LEDGER,
    wait: bool = False,
    resend: bool = False,
    confirm: Callable[[str], bool] | None = None,
    cooldowns: Cooldowns = DEFAULT_COOLDOWNS,
    limits: Limits = DEFAULT_LIMITS,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    console: Console | None = None,
) -> Record:
    """Validates a submission, waits for its turn if asked to, uploads it and enters it into the ledger.

    The entry is made before the first byte leaves, as one whose outcome is unknown, so that a crash, too, is
    remembered. What may have been accepted is sent again only if the user says so.

    Args:
        path: The CSV.
        private_ids: The ids of the private samples.
        board: Where to, and as whom.
        ledger: JSON lines, one an upload.
        wait: Wait for the end of a cooldown, with a countdown, instead of refusing.
        resend: The user looked, and an earlier upload of this file without an answer did not arrive.
        confirm: Asks the user a question; by default on the terminal, if there is one, else the answer is no.
        cooldowns: How long the leaderboard makes a team wait.
        limits: How long to wait for the leaderboard.
        clock: The time, with its zone.
        console: Where the countdown goes; standard error by default.

    Returns:
        The record of the accepted upload.

    Raises:
        InputError: The submission is not valid, the cooldown is not over, an earlier upload of the file may have been
            accepted, or the leaderboard did not accept it. One line each.
    """
    console = console or Console(stderr=True)
    confirm = confirm or _confirm_on_terminal
    data = read_valid(path, private_ids)
    sha256 = hashlib.sha256(data).hexdigest()
    records = read_ledger(ledger)
    earlier = unanswered(records, board.url, board.task, sha256)
    if earlier and not resend:
        _ask_to_resend(f"{path}: sent on {earlier.time:%Y-%m-%d at %H:%M} UTC: {earlier.answer}", confirm)
    left = time_left(records, board.url, board.task, clock())
    if left and not wait:
        raise InputError(f"{path}: not sent: the cooldown lasts another {_span(left)}; --wait waits for its end")

    busy_retries = _BUSY_RETRIES
    while True:
        _count_down(clock() + left, clock, console)
        now = clock()
        pending = Record(now, board.url, board.task, str(path), sha256, Outcome.UNKNOWN, now, answer=_INTERRUPTED)
        write_ledger(ledger, [*read_ledger(ledger), pending])
        answer = upload(board.endpoint, board.key, data, limits)
        record = _answered(pending, answer, cooldowns, clock())
        records = [record if entry == pending else entry for entry in read_ledger(ledger)]
        write_ledger(ledger, records)

        left = time_left(records, board.url, board.task, clock())
        if answer.outcome is Outcome.UNKNOWN:
            _ask_to_resend(f"{path}: {board.url}: {answer.message}", confirm)
        elif answer.outcome is Outcome.BUSY and busy_retries and _worth_waiting(answer.retry_after, wait):
            busy_retries -= 1
        else:
            break
    if record.outcome is not Outcome.ACCEPTED:
        then = f"; next try in {_span(left)}" if left else ""
        raise InputError(f"{path}: {board.url}: {record.answer}{then}")
    return record


def dry_run(
    path: Path,
    private_ids: Sequence[str],
    board: Leaderboard,
    *,
    ledger: Path = DEFAULT_LEDGER,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> str:
    """Everything that `submit` does before the first byte leaves, and one line on what it would do.

    Raises:
        InputError: The submission is not valid, or the ledger cannot be read.
    """
    data = read_valid(path, private_ids)
    records = read_ledger(ledger)
    left = time_left(records, board.url, board.task, clock())
    when = f"once the cooldown is over, in {_span(left)}" if left else "now"
    earlier = unanswered(records, board.url, board.task, hashlib.sha256(data).hexdigest())
    doubt = (
        f"; this file was sent on {earlier.time:%Y-%m-%d at %H:%M} UTC and may have been accepted" if earlier else ""
    )
    return f"{path}: valid, {len(data):,} bytes; would go to {board.endpoint} {when}{doubt}; nothing was sent"


def read_valid(path: Path, private_ids: Sequence[str]) -> bytes:
    """The bytes of a submission that breaks no rule.

    Raises:
        InputError: The file cannot be read, or breaks rules; one line each.
    """
    data = read_bytes(path)
    if broken := broken_rules(data, private_ids):
        raise InputError("\n".join(f"{path}: {rule}" for rule in broken))
    return data


def _answered(pending: Record, answer: Answer, cooldowns: Cooldowns, now: datetime) -> Record:
    spans = {
        Outcome.ACCEPTED: cooldowns.success,
        Outcome.REJECTED: cooldowns.failure,
        Outcome.BUSY: answer.retry_after or timedelta(0),
    }
    return replace(
        pending,
        outcome=answer.outcome,
        not_before=now + spans.get(answer.outcome, timedelta(0)),
        submission_id=answer.submission_id,
        score=answer.score,
        answer=answer.message,
    )


def _worth_waiting(retry_after: timedelta | None, wait: bool) -> bool:
    return retry_after is not None and (wait or retry_after <= _SHORT_WAIT)


def _ask_to_resend(what: str, confirm: Callable[[str], bool]) -> None:
    if not confirm(f"{what}. Look at the leaderboard: if it is not there, send it again?"):
        raise InputError(f"{what}. Look at the leaderboard; if it is not there, run again with --resend")


def _confirm_on_terminal(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _count_down(until: datetime, clock: Callable[[], datetime], console: Console) -> None:
    if until <= clock():
        return
    console.print(f"waiting for the cooldown, until {until:%H:%M:%S} UTC ({_span(until - clock())})", highlight=False)
    with console.status("") as status:
        while (left := until - clock()) > timedelta(0):
            status.update(f"{_span(left)} left")
            time.sleep(min(1, left.total_seconds()))


def _span(span: timedelta) -> str:
    minutes, seconds = divmod(math.ceil(span.total_seconds()), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _checked_url(url: str, key: str) -> str:
    if not url:
        raise InputError(f"{URL} is not set; set it to the leaderboard's address, https://...")
    if key in url:
        raise InputError(f"{URL}: holds the key, which belongs into {KEY} alone")
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        named = False
    if not named or not url.isprintable() or " " in url:
        raise InputError(f"{URL}: {url!r} is no address, expected https://host or https://host:port/path")
    if parts.username is not None or parts.query or parts.fragment:
        raise InputError(f"{URL}: holds a user, a query or a fragment; expected https://host or https://host:port/path")
    return url.rstrip("/")


def _read_env_file(path: Path) -> dict[str, str]:
    try:
        lines = path.read_bytes().decode("utf-8-sig", "replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    settings: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line.removeprefix("export").lstrip().startswith("JAXMIA_"):
            continue
        match = _ENV_LINE.fullmatch(line)
        # The line is not quoted: it may hold the key.
        if not match:
            raise InputError(f"{path}: line {number}: expected NAME=value, with quotes around a value that has spaces")
        name, *values = match.groups()
        if name in settings:
            raise InputError(f"{path}: line {number}: {name} is set a second time")
        settings[name] = next((value for value in values if value is not None), "")
    return settings
