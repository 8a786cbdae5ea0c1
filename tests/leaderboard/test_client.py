import errno
import gzip
import hashlib
import io
import json
import logging
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from rich.console import Console
from urllib3.util import connection

from bridge.challenge import save_challenge
from jaxmia.cli.main import main
from jaxmia.errors import InputError
from jaxmia.leaderboard import client
from jaxmia.leaderboard.ledger import (
    MAX_WAIT,
    Cooldowns,
    Outcome,
    Record,
    append_to_ledger,
    ledger_lock,
    read_ledger,
    time_left,
    unanswered,
)
from jaxmia.leaderboard.settings import Leaderboard, Settings, find_settings
from jaxmia.leaderboard.submission import read_submission
from jaxmia.leaderboard.transport import Limits, Response
from jaxmia.leaderboard.upload import _interpret, upload
from tests.challenge import make_pool
from tests.conftest import telling
from tests.hostile import Unread, answer, hang_up, hostile, raw, stay_silent, trickle

KEY = "sk-Verysecret.0123456789+/="
IDS = ["a", "b", "c"]
PATIENT = Limits(connect=20, read=20, total=60)
SHORT_READ = replace(PATIENT, read=0.4)
SHORT_TOTAL = replace(PATIENT, total=0.8)
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
GOOD = '{"submission_id": "s1", "status": "success"}'


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("id,score\na,0\nb,0.5\nc,1\n")
    return path


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "submissions.jsonl"


def board(url, task="01-mia"):
    return Leaderboard(url, task, SecretStr(KEY))


def read_settings(*args, **options):
    return find_settings(*args, **options).leaderboard()


def submit(csv, ids, board, **options):
    return client.submit(read_submission(csv, ids), board, **options)


def dry_run(csv, url, **options):
    return client.dry_run(read_submission(csv, IDS), Settings(url, "01-mia", SecretStr(KEY)), **options)


def refusal(csv, url, ledger, **options):
    """The one line that a user reads when a submission is not accepted."""
    options = {"limits": PATIENT, "clock": lambda: NOW, "confirm": lambda question: False} | options
    with pytest.raises(InputError) as error:
        submit(csv, IDS, board(url), ledger=ledger, **options)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def slowly(act):
    """The same half a second later."""

    def later(connection):
        time.sleep(0.5)
        act(connection)

    return later


# What the server answers, what is known then, and what the user reads.
MAYBE = "; the file may have been accepted"
NO_JSON = "the answer (200) is not a JSON object" + MAYBE
ANSWERS = {
    "wrong key": (answer(401, '{"error": "who?"}'), Outcome.REFUSED,
                  "the key was refused (401): who?; check JAXMIA_API_KEY"),
    "forbidden": (answer(403), Outcome.REFUSED, "the key was refused (403); check JAXMIA_API_KEY"),
    "wrong task": (
        answer(404, "<html>", Content_Type="text/html"),
        Outcome.REFUSED, "no such task at this address (404); check the address and the task",
    ),
    "too large": (answer(413), Outcome.REJECTED, "the file is too large for the leaderboard (413)"),
    "rejected": (answer(422, '{"detail": [{"msg": "no"}]}'), Outcome.REJECTED,
                 'the file was rejected (422): [{"msg": "no"}]'),
    "rejected with 200": (
        answer(200, '{"submission_id": "x", "status": "Error", "message": "bad"}'),
        Outcome.REJECTED, "the file was rejected (200): bad",
    ),
    "error with 200": (answer(200, '{"error": "bad"}'), Outcome.REJECTED, "the file was rejected (200): bad"),
    "internal error": (answer(500), Outcome.UNKNOWN, "the leaderboard failed (500)" + MAYBE),
    "bad gateway": (answer(502, "oops"), Outcome.UNKNOWN, "the leaderboard failed (502)" + MAYBE),
    "unavailable, no time told": (answer(503), Outcome.UNKNOWN, "the leaderboard failed (503)" + MAYBE),
    "HTML": (
        answer(200, "<!doctype html>", Content_Type="text/html"),
        Outcome.UNKNOWN, "the answer (200) is an HTML page instead of JSON (is the address right?)" + MAYBE,
    ),
    "invalid JSON": (answer(200, '{"submission_id": '), Outcome.UNKNOWN, NO_JSON),
    "no UTF-8": (answer(200, b"\xff\xfe\xff"), Outcome.UNKNOWN, NO_JSON),
    "deep JSON": (answer(200, "[" * 500_000), Outcome.UNKNOWN, NO_JSON),
    "JSON list": (answer(200, "[1]"), Outcome.UNKNOWN, NO_JSON),
    "empty": (answer(200), Outcome.UNKNOWN, NO_JSON),
    "no id": (answer(200, '{"status": "success"}'),
              Outcome.UNKNOWN, "the answer (200) has no submission_id" + MAYBE),
    "empty id": (answer(200, '{"submission_id": ""}'),
                 Outcome.UNKNOWN, "the answer (200) has no submission_id" + MAYBE),
    "id is true": (answer(200, '{"submission_id": true}'),
                   Outcome.UNKNOWN, "the answer (200) has no submission_id" + MAYBE),
    "huge": (
        answer(200, b" " * 3_000_000),
        Outcome.UNKNOWN, "the answer (200) is more than 1,048,576 bytes" + MAYBE,
    ),
    "endless": (
        lambda connection: [connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000) for _ in range(10**6)],
        Outcome.UNKNOWN, "the answer (200) is more than 1,048,576 bytes" + MAYBE,
    ),
    "packed bomb": (
        answer(200, gzip.compress(b" " * 50_000_000), Content_Encoding="gzip"),
        Outcome.UNKNOWN, NO_JSON,
    ),
    "promises more than it sends": (
        answer(200, GOOD[:-5], Content_Length="500"),
        Outcome.UNKNOWN, NO_JSON,
    ),
    "control characters": (
        answer(422, r'{"message": "\u001b[2J\u202edone\r\nline two"}'),
        Outcome.REJECTED, "the file was rejected (422): [2J done line two",
    ),
    "echoes the key": (
        answer(422, json.dumps({"message": f"bad {KEY}"})),
        Outcome.REJECTED, "the file was rejected (422): bad ***",
    ),
    "silent": (stay_silent, Outcome.UNKNOWN, "sent, but no answer came (read time-out)" + MAYBE),
    "slow head": (
        trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n" + GOOD.encode()),
        Outcome.UNKNOWN, "no complete answer within 0.8 s" + MAYBE,
    ),
    "slow body": (
        lambda connection: (
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n"), trickle(GOOD.encode())(connection)
        ),
        Outcome.UNKNOWN, "no complete answer within 0.8 s" + MAYBE,
    ),
    "endless 100 Continue": (
        lambda connection: [connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n") for _ in range(10**9)],
        Outcome.UNKNOWN, "no complete answer within 0.8 s" + MAYBE,
    ),
    "drops": (hang_up, Outcome.UNKNOWN, "sent, but no answer came (connection dropped)" + MAYBE),
    "speaks no HTTP": (raw(b"SSH-2.0-x\r\n"), Outcome.UNKNOWN,
                       "sent, but no answer came (connection dropped)" + MAYBE),
}  # fmt: skip
LIMITS = {"silent": SHORT_READ} | dict.fromkeys(("slow head", "slow body", "endless 100 Continue"), SHORT_TOTAL)


@pytest.mark.parametrize("case", ANSWERS)
def test_each_bad_answer_is_one_line_and_is_sent_once(csv, ledger, case):
    act, outcome, told = ANSWERS[case]
    with hostile(act) as server:
        line = refusal(csv, server.url, ledger, limits=LIMITS.get(case, PATIENT))
        assert len(server.requests) == 1
        then = {
            Outcome.UNKNOWN: ". Look at the leaderboard; if it is not there, run again with --resend",
            Outcome.REJECTED: "; next try in 2 min 0 s",
            Outcome.REFUSED: "",
        }[outcome]
        assert line == f"{csv}: {server.url}: {told}{then}"
    record = read_ledger(ledger)[-1]
    assert (record.outcome, record.answer) == (outcome, told)


def test_the_documents_show_each_case_as_the_user_reads_it():
    text = (Path(__file__).parents[2] / "docs" / "leaderboard.md").read_text()
    told = {told.replace(" 0.8 s", " 180 s") for _, _, told in ANSWERS.values()}
    assert [line for line in told if f"`{line}`" not in text] == []


def test_the_documents_give_the_times_that_hold():
    text = " ".join((Path(__file__).parents[2] / "docs" / "leaderboard.md").read_text().split())
    connect, read, total = (f"{seconds:g} seconds" for seconds in (Limits().connect, Limits().read, Limits().total))
    success, failure = (f"{span // timedelta(minutes=1)}" for span in (Cooldowns().success, Cooldowns().failure))
    for told in (
        f"no progress for {connect}, before the whole file was sent",
        f"no answer for {read} ",
        f"still sending the file after {total} ",
        f"the cooldown ({success} minutes after a success, {failure} after a failure)",
        f"at most {MAX_WAIT // timedelta(hours=1)} hours",
    ):
        assert told in text


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(301, "refused"), (302, "unknown"), (303, "unknown"), (307, "refused"), (308, "refused")],
)
def test_the_key_follows_no_redirect(csv, ledger, status, outcome):
    with hostile(answer(200, GOOD)) as other, hostile(answer(status, Location=f"{other.url}/submit/01-mia")) as server:
        line = refusal(csv, server.url, ledger)
        assert f"redirects to {other.url}/submit/01-mia ({status}); not followed" in line
        assert (len(server.requests), len(other.requests)) == (1, 0)
    assert read_ledger(ledger)[-1].outcome == outcome


def test_what_is_sent_is_what_the_course_accepts(csv, ledger):
    with hostile(answer(200, GOOD)) as server:
        submit(csv, IDS, board(server.url + "/"), ledger=ledger)
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /submit/01-mia HTTP/1.1\r\n")
    assert f"X-API-Key: {KEY}".encode() in head
    boundary = re.search(rb"multipart/form-data; boundary=(\w+)", head)
    assert boundary is not None
    assert body == (
        b"--" + boundary[1] + b'\r\nContent-Disposition: form-data; name="file"; filename="submission.csv"\r\n'
        b"Content-Type: application/csv\r\n\r\n" + csv.read_bytes() + b"\r\n--" + boundary[1] + b"--\r\n"
    )


@pytest.mark.parametrize(
    ("body", "score", "told"),
    [
        (GOOD, None, "accepted as s1"),
        ('{"submission_id": 7, "status": "queued", "score": 0.0625}', 0.0625, "accepted as 7, score 0.0625"),
        ('{"submission_id": "s", "score": NaN, "message": "ok"}', None, "accepted as s: ok"),
        ('{"submission_id": "s", "score": "0.5"}', None, "accepted as s"),
        ('{"submission_id": "s", "score": true}', None, "accepted as s"),
        ('{"submission_id": "s", "score": 1%s}' % ("0" * 400), None, "accepted as s"),
    ],
)  # fmt: skip
def test_accepted(csv, ledger, body, score, told):
    with hostile(answer(201, body)) as server:
        record = submit(csv, IDS, board(server.url), ledger=ledger, clock=lambda: NOW)
    assert (record.outcome, record.score, record.answer) == (Outcome.ACCEPTED, score, told)
    assert record.not_before == NOW + timedelta(minutes=60)
    assert read_ledger(ledger) == [record]


def test_an_invalid_file_is_not_sent(csv, ledger):
    csv.write_text("id,score\na,2\nb,0\n")
    with hostile(answer(200, GOOD)) as server:
        with pytest.raises(InputError) as error:
            submit(csv, IDS, board(server.url), ledger=ledger)
        assert server.requests == []
    assert str(error.value).splitlines() == [
        f"{csv}: 1 private id without a row: 'c'",
        f"{csv}: 1 score outside [0, 1]: line 2 (id 'a'): '2'",
    ]
    assert not ledger.exists()


def test_no_network_is_told_and_is_no_attempt(csv, ledger):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    assert refusal(csv, url, ledger) == f"{csv}: {url}: not sent: Connection refused"
    assert refusal(csv, "http://leaderboard.invalid", ledger).startswith(
        f"{csv}: http://leaderboard.invalid: not sent: "
    )
    assert [record.outcome for record in read_ledger(ledger)] == [Outcome.UNSENT, Outcome.UNSENT]
    with hostile(answer(200, GOOD)) as server:
        append_to_ledger(ledger, [replace(record, url=server.url) for record in read_ledger(ledger)])
        assert submit(csv, IDS, board(server.url), ledger=ledger).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("host", ["a..b", ".example", "a" * 64 + ".example"])
def test_a_host_that_cannot_be_looked_up_is_told(csv, ledger, host):
    url = f"http://{host}"
    assert refusal(csv, url, ledger) == f"{csv}: {url}: not sent: the address names no host that can be looked up"


def test_plain_http_behind_an_https_address_is_told(csv, ledger, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")  # requests would fail for want of it
    with hostile(Unread(raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"))) as server:
        line = refusal(csv, server.url.replace("http:", "https:"), ledger)
    assert "not sent: TLS failed: " in line
    assert read_ledger(ledger)[-1].outcome is Outcome.UNSENT


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
def test_a_certificate_that_nobody_vouches_for_gets_no_key(csv, ledger, tmp_path):
    pem = tmp_path / "own.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", pem, "-out", pem],
        capture_output=True, check=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    received = []

    def greet(connection):
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
            received.append(tls.recv(2**16))

    with hostile(Unread(greet)) as server:
        url = server.url.replace("http:", "https:")
        assert refusal(csv, url, ledger).startswith(f"{csv}: {url}: not sent: TLS failed: self")
    assert b"".join(received) == b""
    assert read_ledger(ledger)[-1].outcome is Outcome.UNSENT


def test_a_connection_that_cannot_be_made_is_tried_again(csv, ledger, monkeypatch):
    tries, connect = [], connection.create_connection

    def refused_at_first(*arguments, **options):
        tries.append(arguments)
        if len(tries) < 3:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return connect(*arguments, **options)

    monkeypatch.setattr(connection, "create_connection", refused_at_first)
    with hostile(answer(200, GOOD)) as server:
        assert submit(csv, IDS, board(server.url), ledger=ledger).outcome is Outcome.ACCEPTED
        assert (len(tries), len(server.requests)) == (3, 1)


def test_a_server_that_stops_reading_is_given_up():
    with hostile(Unread(stay_silent)) as server:
        limits = replace(PATIENT, connect=0.4)
        result = upload(f"{server.url}/submit/x", SecretStr(KEY), b"x" * 30_000_000, limits)
    assert (result.outcome, result.message) == (Outcome.UNSENT, "not sent: connection dropped")


def test_a_file_that_left_only_in_part_was_not_accepted():
    with hostile(Unread(hang_up)) as server:
        result = upload(f"{server.url}/submit/x", SecretStr(KEY), b"x" * 30_000_000, PATIENT)
    assert result.outcome is Outcome.UNSENT
    assert result.message.startswith("not sent: ")


def test_busy_for_a_moment_is_tried_again(csv, ledger):
    acts = answer(503, Retry_After="0"), answer(429, Retry_After="1"), answer(200, GOOD)
    with hostile(*acts) as server:
        record = submit(csv, IDS, board(server.url), ledger=ledger, console=Console(file=io.StringIO()))
        assert len(server.requests) == 3
    assert [entry.outcome for entry in read_ledger(ledger)] == ["busy", "busy", "accepted"]
    assert record == read_ledger(ledger)[-1]


@pytest.mark.parametrize("wait", [False, True])
def test_busy_for_ever_is_given_up(csv, ledger, wait):
    with hostile(answer(429, Retry_After="0")) as server:
        line = refusal(csv, server.url, ledger, wait=wait)
        assert len(server.requests) == 4
    assert line == f"{csv}: {server.url}: the leaderboard asks to try again later (429)"


@pytest.mark.parametrize(
    ("retry_after", "left"),
    [
        ("3540", timedelta(minutes=59)),
        ("9" * 300, timedelta(hours=6)),
        ("9" * 5000, timedelta(0)),
        ("soon", timedelta(0)),
        ("-5", timedelta(0)),
    ],
)
def test_busy_for_long_is_told_and_remembered(csv, ledger, retry_after, left):
    with hostile(answer(429, Retry_After=retry_after)) as server:
        line = refusal(csv, server.url, ledger)
        assert time_left(read_ledger(ledger), server.url, "01-mia", NOW) == left
        if left:
            assert line.endswith(f"; next try in {left // timedelta(minutes=1)} min 0 s")
            again = refusal(csv, server.url, ledger)
            assert again == (
                f"{csv}: not sent: the cooldown lasts another {left // timedelta(minutes=1)} min 0 s; "
                "--wait waits for its end"
            )
        assert len(server.requests) == 1


def test_with_wait_a_busy_leaderboard_is_waited_for_as_long_as_it_asks(csv, ledger, passed):
    with hostile(answer(503, Retry_After="3540"), answer(200, GOOD)) as server:
        console = Console(file=io.StringIO())
        record = submit(csv, IDS, board(server.url), ledger=ledger, wait=True, clock=lambda: NOW, console=console)
        assert len(server.requests) == 2
    assert record.outcome is Outcome.ACCEPTED
    assert passed[0] == pytest.approx(3540)


def test_retry_after_as_a_date(csv, ledger):
    until = datetime.now(UTC) + timedelta(minutes=30)
    with hostile(answer(429, Retry_After=until.strftime("%a, %d %b %Y %H:%M:%S GMT"))) as server:
        refusal(csv, server.url, ledger)
    assert timedelta(minutes=29) < read_ledger(ledger)[-1].not_before - NOW < timedelta(minutes=31)


@pytest.mark.parametrize(("act", "minutes"), [(answer(200, GOOD), 60), (answer(422), 2)])
def test_the_cooldown_is_kept_without_asking_the_server(csv, ledger, act, minutes):
    now = [NOW]
    with hostile(act) as server:
        with suppress(InputError):
            submit(csv, IDS, board(server.url), ledger=ledger, clock=lambda: now[0])
        now[0] += timedelta(minutes=minutes, seconds=-30.5)
        line = refusal(csv, server.url, ledger, clock=lambda: now[0])
        assert line == f"{csv}: not sent: the cooldown lasts another 31 s; --wait waits for its end"
        assert len(server.requests) == 1
        now[0] += timedelta(seconds=30.5)
        with suppress(InputError):
            submit(csv, IDS, board(server.url), ledger=ledger, clock=lambda: now[0])
        assert len(server.requests) == 2


def test_wait_counts_down_to_the_end_of_the_cooldown(csv, ledger, passed):
    screen, quick = io.StringIO(), Cooldowns(success=timedelta(seconds=1.25))
    options = {"cooldowns": quick, "clock": lambda: NOW + timedelta(seconds=passed[0])}
    with hostile(answer(200, GOOD)) as server:
        first = submit(csv, IDS, board(server.url), ledger=ledger, **options)
        console = Console(file=screen, force_terminal=True, width=80)
        second = submit(csv, IDS, board(server.url), ledger=ledger, wait=True, console=console, **options)
    assert second.time == first.not_before
    assert "waiting for the cooldown, until " in screen.getvalue()
    assert "1 s left" in screen.getvalue()


def test_what_may_have_been_accepted_is_sent_again_only_if_the_user_says_so(csv, ledger):
    questions = []

    def no_then_yes(question):
        questions.append(question)
        return len(questions) > 1

    with hostile(hang_up, hang_up, answer(200, GOOD)) as server:
        refusal(csv, server.url, ledger, confirm=no_then_yes)
        assert len(server.requests) == 1
        # The next call asks before it sends, and asks again when that, too, is not answered.
        record = submit(csv, IDS, board(server.url), ledger=ledger, confirm=no_then_yes)
        assert len(server.requests) == 3
    assert record.outcome is Outcome.ACCEPTED
    assert len(questions) == 3
    assert questions[1].startswith(f"{csv}: sent on 2026-11-20 at 12:00 UTC: sent, but no answer came")
    assert all(question.endswith("if it is not there, send it again?") for question in questions)


def test_without_a_terminal_nothing_is_sent_again_but_by_resend(csv, ledger, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with hostile(hang_up, answer(200, GOOD)) as server:
        for _ in range(2):
            line = refusal(csv, server.url, ledger, confirm=None)
            assert line.endswith("if it is not there, run again with --resend")
        assert len(server.requests) == 1
        assert submit(csv, IDS, board(server.url), ledger=ledger, resend=True).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(("typed", "requests"), [("y\n", 2), ("YES\n", 2), ("\n", 1), ("", 1), ("no\n", 1)])
def test_on_a_terminal_the_user_is_asked(csv, ledger, monkeypatch, capsys, typed, requests):
    terminal = io.StringIO(typed)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    with hostile(hang_up, answer(200, GOOD)) as server:
        with suppress(InputError):
            submit(csv, IDS, board(server.url), ledger=ledger)
        assert len(server.requests) == requests
    assert capsys.readouterr().err.endswith("if it is not there, send it again? [y/N] ")


def test_another_file_is_not_held_up_by_an_unanswered_one(csv, ledger):
    with hostile(hang_up, answer(200, GOOD)) as server:
        refusal(csv, server.url, ledger)
        csv.write_text(csv.read_text().replace("0.5", "0.6"))
        assert submit(csv, IDS, board(server.url), ledger=ledger).outcome is Outcome.ACCEPTED


def test_an_upload_that_was_interrupted_is_remembered_as_unknown(csv, ledger, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxmia.leaderboard.client.upload", interrupt)
    with pytest.raises(KeyboardInterrupt):
        submit(csv, IDS, board("http://x"), ledger=ledger)
    assert "interrupted before an answer came" in refusal(csv, "http://x", ledger)


def test_the_ledger_tells_of_an_upload_before_it_is_answered(csv, ledger):
    """So that whatever ends the process leaves a line behind."""
    begun = []

    def look(connection):
        begun.extend(map(json.loads, ledger.read_text().splitlines()))
        answer(200, '{"submission_id": "s1", "score": 0.25}')(connection)

    with hostile(look) as server:
        submit(csv, IDS, board(server.url), ledger=ledger, clock=lambda: NOW)
    first, last = map(json.loads, ledger.read_text().splitlines())
    upload_of = {"url": server.url, "task": "01-mia", "file": str(csv), "time": "2026-11-20T12:00:00Z"}
    upload_of["sha256"] = hashlib.sha256(csv.read_bytes()).hexdigest()
    assert begun == [first]
    assert {**first, **upload_of, "outcome": "unknown", "score": None} == first
    assert {**last, **upload_of, "outcome": "accepted", "score": 0.25, "answer": "accepted as s1, score 0.2500"} == last


def test_nothing_is_sent_that_the_ledger_cannot_hold(csv, tmp_path):
    (tmp_path / "file").write_text("")
    with hostile(answer(200, GOOD)) as server:
        line = refusal(csv, server.url, tmp_path / "file" / "submissions.jsonl")
        assert server.requests == []
    assert "submissions.jsonl: cannot be " in line


def test_dry_run_sends_nothing(csv, ledger):
    with hostile(answer(200, GOOD)) as server:
        line = dry_run(csv, server.url, ledger=ledger)
        assert line == f"{csv}: valid, 23 bytes; would go to {server.url}/submit/01-mia now; nothing was sent"
        submit(csv, IDS, board(server.url), ledger=ledger, clock=lambda: NOW)
        line = dry_run(csv, server.url, ledger=ledger, clock=lambda: NOW)
        assert "once the cooldown is over, in 60 min 0 s; nothing was sent" in line
        assert len(server.requests) == 1
    csv.write_text("id,score\n")
    with pytest.raises(InputError, match="has no row below the header"):
        dry_run(csv, "http://x", ledger=ledger)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs `jaxmia submit` on a valid file in a directory of its own; returns its exit code."""
    monkeypatch.chdir(tmp_path)
    for name in ("JAXMIA_API_KEY", "JAXMIA_LEADERBOARD_URL", "JAXMIA_TASK"):
        monkeypatch.delenv(name, raising=False)
    pool = make_pool()
    save_challenge(pool, tmp_path / "pub.pt", tmp_path / "priv.pt")
    text = "id,score\n" + "".join(f"{name},0.5\n" for name in pool.ids[~pool.public])
    (tmp_path / "valid.csv").write_text(text)

    def run(*options, file="valid.csv"):
        try:
            main(["submit", str(file), "--private", "priv.pt", *options])
        except SystemExit as stop:
            return stop.code
        return 0

    loggers = [logging.getLogger(name) for name in ("jaxmia", "bridge", "benchmarks")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    yield run
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


def test_the_command_checks_the_file_before_the_settings(command, tmp_path, capsys):
    (tmp_path / "bad.csv").write_text("id,score\na,nan\n")
    assert command(file="bad.csv") == 1
    assert re.search(r"jaxmia: bad\.csv: .*nan", capsys.readouterr().err)
    assert command() == 1
    assert "jaxmia: JAXMIA_API_KEY is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({}, "the leaderboard once JAXMIA_LEADERBOARD_URL and JAXMIA_API_KEY are set"),
        ({"JAXMIA_API_KEY": KEY}, "the leaderboard once JAXMIA_LEADERBOARD_URL is set"),
        ({"JAXMIA_LEADERBOARD_URL": "http://x"}, "http://x/submit/01-mia once JAXMIA_API_KEY is set"),
        ({"JAXMIA_LEADERBOARD_URL": "http://x", "JAXMIA_API_KEY": KEY}, "http://x/submit/01-mia now"),
    ],
)
def test_a_dry_run_says_what_is_known_without_key_or_address(command, monkeypatch, capsys, settings, where):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert command("--dry-run") == 0
    said = capsys.readouterr()
    size = Path("valid.csv").stat().st_size
    assert said.out == f"valid.csv: valid, {size:,} bytes; would go to {where}; nothing was sent\n"
    assert not Path("submissions.jsonl").exists()


def test_the_key_meets_no_proxy_and_netrc_adds_no_header(command, tmp_path, monkeypatch, capsys):
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with hostile(answer(200, GOOD)) as proxy, hostile(answer(200, GOOD)) as server:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("JAXMIA_LEADERBOARD_URL", server.url)
        monkeypatch.setenv("JAXMIA_API_KEY", KEY)
        assert command() == 0
        assert (len(proxy.requests), len(server.requests)) == (0, 1)
        head = server.requests[0].partition(b"\r\n\r\n")[0].lower()
    assert capsys.readouterr().out == "accepted as s1\n"
    assert [line.split(b":")[0] for line in head.splitlines()[1:] if b"authorization" in line] == []


def test_a_file_in_the_working_directory_does_not_redirect_a_key(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXMIA_API_KEY", KEY)
    with hostile(answer(200, GOOD)) as server:
        (tmp_path / ".env").write_text(f"JAXMIA_LEADERBOARD_URL={server.url}\n")
        for options in ((), ("--dry-run",)):
            assert command(*options) == 1
            assert capsys.readouterr().err.endswith(
                "\njaxmia: JAXMIA_LEADERBOARD_URL comes from .env, but JAXMIA_API_KEY from the environment; set both "
                "in one of them, or name the address with --url, so that the key goes where you mean it to\n"
            )
        assert server.requests == []
        assert command("--url", server.url) == 0
        assert len(server.requests) == 1


def test_the_file_is_read_once(command, tmp_path, monkeypatch):
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    content = (tmp_path / "valid.csv").read_bytes()
    threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True).start()
    monkeypatch.setenv("JAXMIA_API_KEY", KEY)
    with hostile(answer(200, GOOD)) as server:
        assert command("--url", server.url, file=pipe) == 0
        assert content in server.requests[0]


def test_a_path_that_is_no_text_is_submitted(command, tmp_path, monkeypatch, capsys):
    path = (tmp_path / "valid.csv").rename(os.fsdecode(b"caf\xe9.csv"))
    monkeypatch.setenv("JAXMIA_API_KEY", KEY)
    with hostile(answer(200, GOOD)) as server:
        assert command("--url", server.url, "--dry-run", file=path) == 0
        assert command("--url", server.url, file=path) == 0
    assert capsys.readouterr().out.startswith("caf?.csv: valid, ")
    assert [record.file for record in read_ledger(tmp_path / "submissions.jsonl")] == ["caf?.csv"]


# Several processes, links, clocks


def test_of_two_that_wait_with_one_file_one_uploads(csv, ledger, records):
    with hostile(slowly(answer(200, GOOD))) as server:
        now = datetime.now(UTC)
        other = Record(now, server.url, "01-mia", "x", "0", Outcome.ACCEPTED, now + timedelta(seconds=1), id="other")
        append_to_ledger(ledger, [other])
        results = []

        def upload_it():
            console = Console(file=io.StringIO())
            results.append(submit(csv, IDS, board(server.url), ledger=ledger, wait=True, console=console))

        threads = [threading.Thread(target=upload_it) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.requests) == 1
    assert [result.submission_id for result in results] == ["s1", "s1"]
    assert [record.outcome for record in read_ledger(ledger)] == [Outcome.ACCEPTED, Outcome.ACCEPTED]
    assert telling(records, f"{csv}", "not sent", "another process") == ["INFO"]


def test_without_wait_a_submission_under_way_is_not_waited_for(csv, ledger):
    def fail():
        pytest.fail("nobody holds the lock")

    with ledger_lock(ledger, fail):
        line = refusal(csv, "http://x", ledger)
    assert line == f"{csv}: not sent: another submission is under way; --wait waits for its end"


def test_the_lock_of_a_killed_process_holds_up_nobody(csv, ledger):
    code = (
        "import sys, time; from pathlib import Path; from jaxmia.leaderboard.ledger import ledger_lock\n"
        "with ledger_lock(Path(sys.argv[1]), print): print('locked', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(ledger)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        assert "another submission is under way" in refusal(csv, "http://x", ledger)
        process.kill()
    with hostile(answer(200, GOOD)) as server:
        assert submit(csv, IDS, board(server.url), ledger=ledger).outcome is Outcome.ACCEPTED


def test_without_locks_there_is_a_warning(csv, ledger, records, monkeypatch):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with hostile(answer(200, GOOD)) as server:
        assert submit(csv, IDS, board(server.url), ledger=ledger).outcome is Outcome.ACCEPTED
    assert telling(records, f"{ledger}", "no locks") == ["WARNING"]


def test_a_ledger_is_appended_to_through_a_link(csv, ledger, tmp_path):
    shared = tmp_path / "team" / "shared.jsonl"
    shared.parent.mkdir()
    append_to_ledger(shared, [record(url="http://other")])
    shared.write_bytes(shared.read_bytes().removesuffix(b"\n"))  # as an editor may leave it
    shared.chmod(0o664)
    ledger.symlink_to(shared)
    before, inode = shared.read_bytes(), shared.stat().st_ino
    with hostile(answer(200, GOOD)) as server:
        submit(csv, IDS, board(server.url), ledger=ledger)
    assert ledger.readlink() == shared
    assert shared.read_bytes().startswith(before + b"\n")
    assert (shared.stat().st_ino, shared.stat().st_mode & 0o777) == (inode, 0o664)
    assert [entry.outcome for entry in read_ledger(shared)] == [Outcome.ACCEPTED, Outcome.ACCEPTED]


def test_a_link_to_nothing_makes_the_ledger(csv, ledger, tmp_path):
    ledger.symlink_to(tmp_path / "shared.jsonl")
    with hostile(answer(200, GOOD)) as server:
        submit(csv, IDS, board(server.url), ledger=ledger)
    assert ledger.is_symlink()
    assert len(read_ledger(tmp_path / "shared.jsonl")) == 1


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_ledger_that_is_no_file_is_refused(csv, ledger, make):
    make(ledger)
    with hostile(answer(200, GOOD)) as server:
        assert refusal(csv, server.url, ledger) == (
            f"{ledger}: is not a regular file, expected one that can be appended to"
        )
        assert server.requests == []


def test_an_answer_that_the_ledger_cannot_hold_is_told(csv, ledger, records):
    def take_the_ledger_away(connection):
        ledger.unlink()
        ledger.mkdir()
        answer(200, GOOD)(connection)

    with hostile(take_the_ledger_away) as server:
        assert submit(csv, IDS, board(server.url), ledger=ledger).submission_id == "s1"
    assert telling(records, f"{ledger}", "Is a directory", "accepted as s1") == ["WARNING"]


def test_lines_of_a_clock_that_ran_ahead_lock_for_one_cooldown_only(csv, ledger):
    ahead = NOW + timedelta(days=4000)
    with hostile(answer(200, GOOD)) as server:
        append_to_ledger(ledger, [record(time=ahead, minutes=60, url=server.url, task="01-mia")])
        assert "the cooldown lasts another 60 min 0 s" in refusal(csv, server.url, ledger)
        later = NOW + timedelta(minutes=20)
        assert "the cooldown lasts another 40 min 0 s" in refusal(csv, server.url, ledger, clock=lambda: later)
        end = NOW + timedelta(minutes=60)
        assert submit(csv, IDS, board(server.url), ledger=ledger, clock=lambda: end).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("year", ["0001", "9999"])
def test_the_ends_of_the_calendar_are_times_too(csv, ledger, year):
    line = {"url": "http://127.0.0.1:1", "task": "01-mia", "file": "f", "sha256": "0", "outcome": "accepted"}
    line |= {"time": f"{year}-12-31T23:59:59-14:00", "not_before": "9999-12-31T23:59:59-14:00"}
    ledger.write_text(json.dumps(line) + "\n")
    assert "not sent: Connection refused" in refusal(csv, "http://127.0.0.1:1", ledger)


def test_a_clock_set_back_does_not_prolong_the_countdown(csv, ledger, passed):
    def clock():
        return NOW if passed[0] < 0.5 else NOW - timedelta(hours=1)

    with hostile(answer(200, GOOD)) as server:
        earlier = NOW - timedelta(minutes=60, seconds=-1)
        append_to_ledger(ledger, [record(time=earlier, minutes=60, url=server.url, task="01-mia")])
        submit(csv, IDS, board(server.url), ledger=ledger, wait=True, clock=clock, console=Console(file=io.StringIO()))
    assert passed[0] == pytest.approx(1)


# The end of an upload


def test_an_upload_that_takes_too_long_is_over_before_the_user_is_asked(csv, ledger):
    closed = threading.Event()

    def trickle_until_closed(connection):
        with suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                connection.sendall(b"X-A: b\r\n")
                time.sleep(0.05)
        closed.set()

    def confirm(question):
        assert "no complete answer within 0.8 s" in question
        assert closed.wait(20)
        return True

    with hostile(trickle_until_closed, answer(200, GOOD)) as server:
        record = submit(csv, IDS, board(server.url), ledger=ledger, limits=SHORT_TOTAL, confirm=confirm)
        assert len(server.requests) == 2
    assert record.outcome is Outcome.ACCEPTED


def test_a_file_that_leaves_too_slowly_is_not_sent():
    got = []

    def read_slowly(connection):
        with suppress(OSError):
            while data := connection.recv(2**12):
                got.append(len(data))
                time.sleep(0.02)

    with hostile(Unread(read_slowly)) as server:
        result = upload(f"{server.url}/submit/x", SecretStr(KEY), b"x" * 30_000_000, SHORT_TOTAL)
    assert (result.outcome, result.message) == (Outcome.UNSENT, "not sent: the upload was not complete after 0.8 s")
    assert sum(got) < 30_000_000


def test_the_key_is_found_nowhere(tmp_path, csv, ledger, capfd, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    seen = []
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
    spread = "\x00".join([KEY[:4], KEY[4:]])
    echoes = [
        answer(200, json.dumps({"submission_id": KEY, "status": KEY, "message": f"{KEY}{KEY}"})),
        answer(200, f'{{"submission_id": "{escaped}", "message": "{escaped}"}}'),
        answer(400, json.dumps({"detail": [{"key": KEY, KEY: 1}]})),
        answer(400, json.dumps({"message": spread})),
        answer(307, Location=f"http://elsewhere/{KEY}"),
        answer(307, Location=f"http://elsewhere/?k={KEY[:200]}" + "x" * 300),
        answer(307, Location=f"http://elsewhere/?k={quote(KEY, safe='')}"),
        raw(f"HTTP/1.1 {KEY}\r\n\r\n".encode()),
        raw(KEY.encode()),
    ]
    cases = [(act, PATIENT) for act in echoes]
    cases += [(act, LIMITS.get(case, PATIENT)) for case, (act, _, _) in ANSWERS.items()]
    for act, limits in cases:
        with hostile(act) as server:
            seen.append(repr(board(server.url)) + str(board(server.url)))
            try:
                seen.append(repr(submit(csv, IDS, board(server.url), ledger=ledger, limits=limits)))
            except InputError as error:
                seen += [str(error), repr(error.__cause__), repr(error.__context__)]
            assert KEY.encode() in server.requests[0]
    seen += [*capfd.readouterr(), caplog.text, str(sys.argv)]
    seen += [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(read_ledger(ledger)) == len(cases)
    assert [text for text in seen if KEY in text or quote(KEY, safe="") in text] == []


# Settings


def test_settings_come_from_argument_environment_and_file_in_this_order(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_text(
        "# team 7\nOTHER=$(not ours\n\nexport JAXMIA_API_KEY = 'from-file' # note\n"
        'JAXMIA_LEADERBOARD_URL="http://file/base/"\nJAXMIA_TASK=file-task\n'
    )
    from_file = read_settings(environ={}, env_file=env_file)
    assert from_file == Leaderboard("http://file/base", "file-task", SecretStr("from-file"))
    assert from_file.endpoint == "http://file/base/submit/file-task"
    environ = {"JAXMIA_LEADERBOARD_URL": "https://env", "JAXMIA_API_KEY": "from-env", "JAXMIA_TASK": ""}
    from_environ = read_settings(environ=environ, env_file=env_file)
    assert from_environ == Leaderboard("https://env", "file-task", SecretStr("from-env"))
    from_argument = read_settings("http://argument:80", "02-x", environ=environ, env_file=env_file)
    assert from_argument == Leaderboard("http://argument:80", "02-x", SecretStr("from-env"))
    assert read_settings("http://x", environ={"JAXMIA_API_KEY": "k"}, env_file=tmp_path / "none").task == "01-mia"


@pytest.mark.parametrize(
    ("environ", "text", "sources"),
    [
        ({"JAXMIA_API_KEY": "k"}, "JAXMIA_LEADERBOARD_URL=http://x", (".env", "the environment")),
        ({"JAXMIA_LEADERBOARD_URL": "http://x"}, "JAXMIA_API_KEY=k", ("the environment", ".env")),
        ({"JAXMIA_API_KEY": "k"}, "JAXMIA_LEADERBOARD_URL=http://x\nJAXMIA_API_KEY=j", (".env", "the environment")),
    ],
)
def test_key_and_address_of_different_sources_are_refused(tmp_path, environ, text, sources):
    env_file = tmp_path / ".env"
    env_file.write_text(text)
    names = [re.escape(source).replace(r"\.env", r".*/\.env") for source in sources]
    message = f"^JAXMIA_LEADERBOARD_URL comes from {names[0]}, but JAXMIA_API_KEY from {names[1]}; set both"
    with pytest.raises(InputError, match=message):
        find_settings(environ=environ, env_file=env_file)
    assert find_settings("http://named", environ=environ, env_file=env_file).url == "http://named"


@pytest.mark.parametrize(
    ("url", "task", "message"),
    [
        ("localhost:8026", None, r"^--url: 'localhost:8026' is not an address"),
        ("http://host/?a=b", None, r"^--url: has a user"),
        (None, "a b", r"^--task: 'a b' is not a task"),
        (f"http://host/{KEY}", None, r"^--url: contains the key"),
    ],
)
def test_messages_name_the_option_that_gave_a_setting(tmp_path, url, task, message):
    environ = {"JAXMIA_LEADERBOARD_URL": "http://host", "JAXMIA_TASK": "t", "JAXMIA_API_KEY": KEY}
    with pytest.raises(InputError, match=message) as error:
        find_settings(url, task, environ, tmp_path / ".env").address()
    assert KEY not in str(error.value)


def test_an_env_file_takes_the_lines_that_the_practice_server_shows(tmp_path):
    (tmp_path / ".env").write_text("export JAXMIA_LEADERBOARD_URL=http://host\nexport JAXMIA_TASK=t\n")
    assert find_settings(environ={}, env_file=tmp_path / ".env").task == "t"


def test_a_virtual_environment_named_env_is_no_settings_file(tmp_path):
    (tmp_path / ".env").mkdir()
    assert find_settings("http://x", environ={}, env_file=tmp_path / ".env").missing == ["JAXMIA_API_KEY"]


@pytest.mark.parametrize(
    ("url", "task", "key", "message"),
    [
        ("", "t", KEY, "JAXMIA_LEADERBOARD_URL is not set"),
        ("example.org", "t", KEY, "JAXMIA_LEADERBOARD_URL: 'example.org' is not an address, expected https://host"),
        ("ftp://example.org", "t", KEY, "'ftp://example.org' is not an address"),
        ("http://", "t", KEY, "'http://' is not an address"),
        ("http://host:99999", "t", KEY, "'http://host:99999' is not an address"),
        ("http://[::1", "t", KEY, r"'http://\[::1' is not an address"),
        ("http://a b", "t", KEY, "'http://a b' is not an address"),
        ("http://a\r\nX: y", "t", KEY, r"'http://a\\r\\nX: y' is not an address"),
        ("http://user:pass@host", "t", KEY, "has a user, a query or a fragment"),
        ("http://host/?a=b", "t", KEY, "has a user, a query or a fragment"),
        (f"http://host/{KEY}", "t", KEY, "contains the key, which belongs in JAXMIA_API_KEY alone"),
        ("http://host", "a/b", KEY, "JAXMIA_TASK: 'a/b' is not a task"),
        ("http://host", "..", KEY, "JAXMIA_TASK: '..' is not a task"),
        ("http://host", "t", "", "JAXMIA_API_KEY is not set"),
        ("http://host", "t", KEY + "\n", "JAXMIA_API_KEY: contains a space, quote, backslash or character outside"),
        ("http://host", "t", f'"{KEY}"', "JAXMIA_API_KEY: contains a space, quote"),
        ("http://host", "t", KEY + "é", "JAXMIA_API_KEY: contains a space, quote"),
    ],
)
def test_bad_settings_are_refused_without_quoting_the_key(url, task, key, message):
    with pytest.raises(InputError, match=message) as error:
        Leaderboard(url, task, SecretStr(key))
    assert not key or key not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"\nJAXMIA_API_KEY={KEY} {KEY}", "line 2: expected NAME=value"),
        (f"JAXMIA_API_KEY: {KEY}", "line 1: expected NAME=value"),
        (f"JAXMIA_API_KEY='{KEY}", "line 1: expected NAME=value"),
        (f"JAXMIA_API_KEY={KEY}\nexport JAXMIA_API_KEY={KEY}", "line 2: JAXMIA_API_KEY is set a second time"),
    ],
)
def test_a_bad_env_file_is_refused_without_quoting_it(tmp_path, text, message):
    env_file = tmp_path / ".env"
    env_file.write_text(text)
    with pytest.raises(InputError, match=f"{re.escape(str(env_file))}: {message}") as error:
        read_settings(environ={}, env_file=env_file)
    assert KEY not in str(error.value)


@given(st.binary())
def test_any_env_file_is_read_or_refused(tmp_path_factory, data):
    env_file = tmp_path_factory.mktemp("env") / ".env"
    env_file.write_bytes(b"JAXMIA_TASK=" + data)
    with suppress(InputError):
        read_settings("http://x", environ={"JAXMIA_API_KEY": "k"}, env_file=env_file)


# Ledger


def record(outcome=Outcome.ACCEPTED, *, time=NOW, minutes=0.0, url="http://x", task="t", sha256="0"):
    return Record(time, url, task, "s.csv", sha256, outcome, time + timedelta(minutes=minutes))


def test_the_ledger_reads_back_what_was_written(tmp_path):
    path = tmp_path / "ledger.jsonl"
    assert read_ledger(path) == []
    records = [record(), replace(record(Outcome.UNKNOWN), score=0.1, submission_id="é\n", answer='"')]
    append_to_ledger(path, records)
    assert read_ledger(path) == records
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: the line: Invalid JSON"),
        ("{}", "line 1: time: "),
        ('{"time": "2026-01-01T00:00:00"}', "line 1: time: .*timezone"),
        ("\udc80".encode("utf-8", "surrogateescape"), "line 1: the line: "),
    ],
)
def test_a_damaged_ledger_is_refused(tmp_path, line, message):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(line if isinstance(line, bytes) else line.encode())
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: {message}.*correct the line, or remove it"):
        read_ledger(path)


def test_time_left_is_the_longest_of_this_leaderboard_and_task():
    records = [record(minutes=60), record(minutes=2), record(minutes=99, url="http://y"), record(minutes=99, task="u")]
    assert time_left(records, "http://x", "t", NOW + timedelta(minutes=50)) == timedelta(minutes=10)
    assert time_left(records, "http://x", "t", NOW + timedelta(minutes=61)) == timedelta(0)
    assert time_left([], "http://x", "t", NOW) == timedelta(0)


def test_a_clock_set_back_does_not_lengthen_the_cooldown():
    assert time_left([record(minutes=60)], "http://x", "t", NOW - timedelta(days=400)) == timedelta(minutes=60)


def test_unanswered_until_an_answer_comes():
    unknown, busy = record(Outcome.UNKNOWN), record(Outcome.BUSY)
    assert unanswered([unknown, busy], "http://x", "t", "0") == unknown
    assert unanswered([unknown, record(Outcome.REJECTED)], "http://x", "t", "0") is None
    assert unanswered([record(), unknown], "http://x", "t", "0") == unknown
    assert unanswered([unknown, record(sha256="1")], "http://x", "t", "0") == unknown
    assert unanswered([unknown], "http://x", "t", "1") is None
    assert unanswered([unknown], "http://y", "t", "0") is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(KEY) | st.just("error"),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["submission_id", "status", "score", "message", "error", KEY]), inner)
    ),
)


@given(
    st.integers(200, 599),
    st.dictionaries(st.sampled_from(["Retry-After", "Location", "Content-Type"]), st.text() | st.just(KEY)),
    st.binary() | JSON.map(json.dumps).map(str.encode) | JSON.map(lambda value: json.dumps({"error": value}).encode()),
)
def test_any_answer_is_one_clean_line(status, headers, payload):
    result = _interpret(Response(status, headers, payload), SecretStr(KEY))
    assert result.message.isprintable()
    assert len(result.message) < 500
    assert KEY not in repr(result)
    assert (result.outcome is Outcome.ACCEPTED) == (result.submission_id is not None)
    if result.outcome is Outcome.ACCEPTED:
        assert 200 <= status < 300
        assert "submission_id" in json.loads(payload)


@pytest.mark.parametrize(
    "url, task, key, complaint",
    [
        (KEY, "t", "https://host", "JAXMIA_API_KEY: contains an address, which belongs in JAXMIA_LEADERBOARD_URL"),
        ("https://host", KEY, KEY, "JAXMIA_TASK: contains the key, which belongs in JAXMIA_API_KEY alone"),
        ("https://host", f"{KEY} ", KEY, "JAXMIA_TASK: contains the key, which belongs in JAXMIA_API_KEY alone"),
        (KEY, "t", "another", "JAXMIA_LEADERBOARD_URL: is not an address"),
        (f"ftp://me:{KEY}@host", "t", "another", "JAXMIA_LEADERBOARD_URL: is not an address"),
        (f"https://me:{KEY}@host x", "t", "another", "JAXMIA_LEADERBOARD_URL: is not an address"),
    ],
)
def test_a_key_in_the_wrong_place_is_refused_unquoted(url: str, task: str, key: str, complaint: str):
    with pytest.raises(InputError, match=complaint) as caught:
        Leaderboard(url, task, SecretStr(key))
    assert KEY not in str(caught.value)
