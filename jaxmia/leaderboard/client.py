"""The leaderboard client, which respects the cooldown, uploads a submission, and records the outcome."""

import logging
import math
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from jaxmia.errors import InputError, UnwritableFile, visible
from jaxmia.leaderboard.ledger import (
    DEFAULT_COOLDOWNS,
    Cooldowns,
    Outcome,
    Record,
    append_to_ledger,
    ledger_lock,
    read_ledger,
    settled,
    time_left,
    unanswered,
)
from jaxmia.leaderboard.settings import Leaderboard, Settings
from jaxmia.leaderboard.submission import Submission
from jaxmia.leaderboard.transport import DEFAULT_LIMITS, Limits
from jaxmia.leaderboard.upload import Answer, upload

logger = logging.getLogger(__name__)

DEFAULT_LEDGER = Path("submissions.jsonl")
"""In the working directory, next to `.env`: a cooldown applies to the team and thus to all of its run directories."""

_SHORT_WAIT = timedelta(minutes=1)
_BUSY_RETRIES = 3
_INTERRUPTED = "interrupted before an answer came; the file may have been accepted"


def submit(
    submission: Submission,
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
    """Uploads a submission once the cooldown allows it, and records it in the ledger.

    An entry with unknown outcome is written before the first byte is sent, so that an upload is on record even after a
    crash. A file that may have been accepted is sent again only if the user agrees. Processes that share a ledger
    upload one at a time, and none sends a file that another has uploaded in the meantime.

    Args:
        submission: Submission to send, as returned by `read_submission`.
        board: Address, task and key of the team.
        ledger: File of JSON lines that records uploads.
        wait: Whether to wait for the end of a cooldown, with a countdown, and for other processes, instead of raising.
        resend: Whether the user has checked that an earlier, unanswered upload of this file did not arrive.
        confirm: Asks the user a question. By default it asks on the terminal; without one the answer is no.
        cooldowns: Cooldowns of the leaderboard.
        limits: Time limits of the upload.
        clock: Returns the current time with its time zone.
        console: Console for the countdown; by default standard error.

    Returns:
        The record of the accepted upload.

    Raises:
        InputError: The cooldown is not over, an earlier upload of the file may have been accepted, or the leaderboard
            did not accept it; the message is one line.
    """
    name, upload_of = submission.name, (board.url, board.task, submission.sha256)
    console = console or Console(stderr=True)
    confirm = confirm or _confirm_on_terminal
    answered = {record.id for record in read_ledger(ledger) if record.is_answered}
    disregarded: set[str] = set()
    waited_for: set[str] = set()
    busy_retries = _BUSY_RETRIES
    sent: Record | None = None
    retry_after: timedelta | None = None

    def on_wait() -> None:
        if not wait:
            raise InputError(f"{name}: not sent: another submission is under way; --wait waits for its end")
        console.print("waiting for another submission, which is under way", highlight=False)

    while True:
        with ledger_lock(ledger, on_wait):
            records = _read_settled(ledger, clock())
            if other := _latest_answer([record for record in records if record.id not in answered], *upload_of):
                logger.info(f"{name}: not sent: another process has uploaded this file in the meantime")
                return _accepted_or_raise(name, other, time_left(records, board.url, board.task, clock()))
            if resend:
                disregarded |= {record.id for record in records}
                resend = False
            doubtful = unanswered([record for record in records if record.id not in disregarded], *upload_of)
            open_ = [record for record in records if record.id not in waited_for]
            left = time_left(open_, board.url, board.task, clock())
            if doubtful is None and not left:
                sent, retry_after = _send(submission, board, ledger, cooldowns, limits, clock)
                answered.add(sent.id)

        if doubtful:
            _ask_to_resend(_doubt(name, doubtful, is_own=sent is not None and doubtful.id == sent.id), confirm)
            disregarded |= {record.id for record in records}
        elif left:
            if not wait:
                raise InputError(
                    f"{name}: not sent: the cooldown lasts another {_span(left)}; --wait waits for its end"
                )
            _count_down(left, clock(), console)
            waited_for |= {record.id for record in records}
        elif sent and busy_retries and retry_after is not None and (wait or retry_after <= _SHORT_WAIT):
            busy_retries -= 1
            _count_down(retry_after, clock(), console)
            waited_for |= {record.id for record in (*records, sent)}
        elif sent and sent.outcome is not Outcome.UNKNOWN:  # else the next turn asks
            return _accepted_or_raise(name, sent, time_left([*records, sent], board.url, board.task, clock()))


def dry_run(
    submission: Submission,
    settings: Settings,
    *,
    ledger: Path = DEFAULT_LEDGER,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> str:
    """Describes in one line what `submit` would do, as far as the settings determine it.

    Raises:
        InputError: A setting is malformed, or the ledger cannot be read.
    """
    records, address, missing = read_ledger(ledger), settings.address(), settings.missing
    left = time_left(records, address.url, address.task, clock()) if address else None
    earlier = unanswered(records, address.url, address.task, submission.sha256) if address else None
    where = address.endpoint if address else "the leaderboard"
    needed = [f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} set"] if missing else []
    needed += [f"the cooldown is over, in {_span(left)}"] if left else []
    when = f"once {' and '.join(needed)}" if needed else "now"
    doubt = f"; {_sent_on(earlier)} and may have been accepted" if earlier else ""
    return (
        f"{submission.name}: valid, {len(submission.data):,} bytes; would go to {where} {when}{doubt}; nothing was sent"
    )


def _read_settled(ledger: Path, now: datetime) -> list[Record]:
    """Reads the ledger and corrects records from the future, of a clock that was ahead, in the file too."""
    records = read_ledger(ledger)
    if moved := settled(records, now):
        append_to_ledger(ledger, moved)
        records = read_ledger(ledger)
    return records


def _latest_answer(records: Sequence[Record], url: str, task: str, sha256: str) -> Record | None:
    of_file = (r for r in reversed(records) if r.is_answered and (r.url, r.task, r.sha256) == (url, task, sha256))
    return next(of_file, None)


def _send(
    submission: Submission,
    board: Leaderboard,
    ledger: Path,
    cooldowns: Cooldowns,
    limits: Limits,
    clock: Callable[[], datetime],
) -> tuple[Record, timedelta | None]:
    """Uploads once; returns the record with its outcome, and how long a busy server asks to wait."""
    now = clock()
    pending = Record(
        now, board.url, board.task, submission.name, submission.sha256, Outcome.UNKNOWN, now, answer=_INTERRUPTED,
        id=secrets.token_hex(8),
    )  # fmt: skip
    append_to_ledger(ledger, [pending])
    answer = upload(board.endpoint, board.key, submission.data, limits)
    record = _answered(pending, answer, cooldowns, max(clock(), now))
    try:
        append_to_ledger(ledger, [record])
    except UnwritableFile as error:
        logger.warning(f"{error}; it lacks the outcome of this upload: {record.answer}")
    return record, answer.retry_after if answer.outcome is Outcome.BUSY else None


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


def _accepted_or_raise(name: str, record: Record, left: timedelta) -> Record:
    if record.outcome is Outcome.ACCEPTED:
        return record
    then = f"; next try in {_span(left)}" if left else ""
    raise InputError(f"{name}: {record.url}: {record.answer}{then}")


def _doubt(name: str, record: Record, is_own: bool) -> str:
    return f"{name}: {record.url if is_own else _sent_on(record)}: {record.answer}"


def _sent_on(record: Record) -> str:
    return f"sent on {record.time:%Y-%m-%d at %H:%M} UTC"


def _ask_to_resend(what: str, confirm: Callable[[str], bool]) -> None:
    if not confirm(f"{what}. Look at the leaderboard: if it is not there, send it again?"):
        raise InputError(f"{what}. Look at the leaderboard; if it is not there, run again with --resend")


def _confirm_on_terminal(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"{visible(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _count_down(left: timedelta, now: datetime, console: Console) -> None:
    """Shows a countdown and waits, by the monotonic clock, which ignores changes of the system time."""
    if not left:
        return
    console.print(f"waiting for the cooldown, until {now + left:%H:%M:%S} UTC ({_span(left)})", highlight=False)
    end = time.monotonic() + left.total_seconds()
    with console.status("") as status:
        while (seconds := end - time.monotonic()) > 0:
            status.update(f"{_span(timedelta(seconds=seconds))} left")
            time.sleep(min(1, seconds))


def _span(span: timedelta) -> str:
    minutes, seconds = divmod(math.ceil(span.total_seconds()), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
