import csv as csv_module
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from rich.console import Console

from jaxmia.errors import InputError
from jaxmia.evaluation.metrics import tpr_at_fpr
from jaxmia.leaderboard import client
from jaxmia.leaderboard.grading import Grader, split
from jaxmia.leaderboard.ledger import Cooldowns, Outcome, read_ledger
from jaxmia.leaderboard.server import PracticeServer, file_of, page, read_teams, serve
from jaxmia.leaderboard.settings import Leaderboard
from jaxmia.leaderboard.submission import parse_submission, read_submission, to_unit_interval, write_submission
from tests.conftest import Records, telling
from tests.leaderboard.memory import traced

ROOT = Path(__file__).parents[2]
IDS = [f"p{i}" for i in range(400)]
TRUTH = np.random.default_rng(0).permutation(400) < 200
KEYS = {"red": "key-red", "blue": "key-blue"}
START = datetime(2026, 1, 1, tzinfo=UTC)
NO_COOLDOWN = Cooldowns(timedelta(0), timedelta(0))


def submit(path, ids, board, **options):
    return client.submit(read_submission(path, ids), board, **options)


def grader(**options):
    return Grader(IDS, np.array(IDS), TRUTH, KEYS, **options)


@contextmanager
def answering(server: PracticeServer) -> Iterator[PracticeServer]:
    """Runs a server in a thread until the block ends."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def attack(seed, strength):
    """Scores of an attack: higher for members, by `strength` standard deviations."""
    return to_unit_interval(np.random.default_rng(seed).normal(size=len(IDS)) + strength * TRUTH)


def csv_bytes(scores):
    return (
        "id,score\n" + "".join(f"{id_},{score!r}\n" for id_, score in zip(IDS, scores.tolist(), strict=True))
    ).encode()


def form(data, boundary=b"XX"):
    head = b'Content-Disposition: form-data; name="file"; filename="s.csv"\r\nContent-Type: application/csv\r\n\r\n'
    return b"--" + boundary + b"\r\n" + head + data + b"\r\n--" + boundary + b"--\r\n"


def post(server, body, *, key="key-red", path="/submit/01-mia", content_type="multipart/form-data; boundary=XX"):
    """Status, headers and JSON of one request, by a client that is not ours."""
    headers = {"X-API-Key": key, "Content-Type": content_type}
    return fetch(urllib.request.Request(server.url + path, body, headers))


def fetch(request):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as response:
            return response.status, response.headers, json.load(response)
    except HTTPError as error:
        with error:
            return error.code, error.headers, json.load(error)


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def threads_in(function):
    """Whether a thread is within a function of this name."""
    frames = [summary.name for frame in sys._current_frames().values() for summary in traceback.extract_stack(frame)]
    return function in frames


# Rules


def test_the_split_is_three_tenths_and_depends_on_ids_and_seed_alone():
    public = split(IDS, 3)
    assert public.sum() == 120
    shuffled = np.random.default_rng(1).permutation(400)
    np.testing.assert_array_equal(split([IDS[i] for i in shuffled], 3), public[shuffled])
    assert (split(IDS, 4) != public).any()


def test_a_team_keeps_its_best_by_the_public_share_and_final_is_of_that_one():
    teacher = grader(seed=5, cooldowns=NO_COOLDOWN)
    attacks = [attack(1, 1.0), attack(2, 2.5), attack(3, 0.0)]
    public = split(IDS, 5)
    expected = [tpr_at_fpr(scores[public], TRUTH[public], 0.05) for scores in attacks]
    grades = [teacher.grade("red", csv_bytes(scores)) for scores in attacks]
    assert [grade.public for grade in grades] == expected
    teacher.grade("blue", csv_bytes(attacks[0]))

    red, blue = teacher.ranking()
    assert (red.team, blue.team) == ("red", "blue")
    best = int(np.argmax(expected))
    assert (red.submission_id, red.accepted) == (grades[best].submission_id, 3)
    assert red.final.value == tpr_at_fpr(attacks[best][~public], TRUTH[~public], 0.05)
    assert red.public.low <= red.public.value <= red.public.high
    assert red.public.low < red.public.high


def test_rows_are_matched_by_id_not_by_order():
    teacher, scores = grader(cooldowns=NO_COOLDOWN), attack(1, 2.0)
    header, *rows = csv_bytes(scores).decode().splitlines()
    shuffled = "\n".join([header, *np.random.default_rng(0).permutation(rows)])
    assert teacher.grade("red", shuffled.encode()).public == teacher.grade("red", csv_bytes(scores)).public


def test_of_equal_figures_the_earlier_is_ahead():
    now = [START]
    teacher = grader(clock=lambda: now[0])
    for team in ("blue", "red"):
        teacher.grade(team, csv_bytes(attack(1, 1.0)))
        now[0] += timedelta(seconds=1)
    assert [standing.team for standing in teacher.ranking()] == ["blue", "red"]


def test_cooldowns_are_sixty_minutes_after_success_and_two_after_failure():
    now = [START]
    teacher = grader(clock=lambda: now[0])
    good, bad = csv_bytes(attack(1, 1.0)), b"id,score\np0,2\n"
    assert teacher.grade("red", bad).broken[0] == "399 private ids without a row: 'p1', 'p2', 'p3', and 396 more"
    now[0] += timedelta(seconds=119)
    assert teacher.grade("red", good).wait == timedelta(seconds=1)
    assert teacher.grade("blue", good).submission_id
    now[0] += timedelta(seconds=1)
    assert teacher.grade("red", good).submission_id
    now[0] += timedelta(minutes=59)
    assert teacher.grade("red", good).wait == timedelta(minutes=1)
    now[0] += timedelta(minutes=1)
    assert teacher.grade("red", good).submission_id


def test_one_of_many_at_once_is_judged():
    teacher, grades = grader(), []
    data = csv_bytes(attack(1, 1.0))
    threads = [threading.Thread(target=lambda: grades.append(teacher.grade("red", data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bool(grade.submission_id) for grade in grades) == [False] * 7 + [True]


@pytest.mark.parametrize(
    ("ids", "truth_ids", "members", "key_of", "message"),
    [
        (IDS, IDS[1:], TRUTH[1:], KEYS, "truth: 1 of 400 private ids are not in it, e.g. 'p0'"),
        (
            IDS[:60],
            IDS,
            TRUTH,
            KEYS,
            r"the public share has \d+ members and \d+ non-members, expected at least 1 and 20",
        ),
        (IDS, IDS, np.zeros(400, bool), KEYS, "the public share has 0 members and 120 non-members"),
        (IDS, IDS, TRUTH, {}, "teams: there is none"),
        (IDS, IDS, TRUTH, {"a": "k", "b": "k"}, "teams: two share a key"),
    ],
)
def test_a_challenge_that_cannot_be_ranked_is_refused(ids, truth_ids, members, key_of, message):
    with pytest.raises(InputError, match=message):
        Grader(ids, np.array(truth_ids), members, key_of)


def test_ids_may_be_integers_in_lists_or_arrays():
    ids = list(range(400))
    data = csv_bytes(attack(1, 2.0)).replace(b"\np", b"\n")
    expected = grader().grade("red", csv_bytes(attack(1, 2.0)))
    for private_ids, truth_ids in ((ids, np.array(ids)), (np.array(ids), ids), ([str(i) for i in ids], ids)):
        grade = Grader(private_ids, truth_ids, TRUTH.tolist(), KEYS).grade("red", data)
        assert (grade.broken, grade.public > 0) == (expected.broken, expected.public > 0)


def test_messages_name_the_file_of_the_truth():
    with pytest.raises(InputError, match=r"^t\.csv: 1 of 400 private ids are not in it"):
        Grader(IDS, IDS[1:], TRUTH[1:], KEYS, truth="t.csv")
    with pytest.raises(InputError, match=r"^t\.csv: the public share has 0 members"):
        Grader(IDS, IDS, np.zeros(400, bool), KEYS, truth="t.csv")


def test_truth_beyond_the_private_ids_is_left_out():
    more = Grader(IDS, np.array([*IDS, "public"]), np.append(TRUTH, True), KEYS)
    data = csv_bytes(attack(1, 1.0))
    assert more.grade("red", data).public == grader().grade("red", data).public


def test_teams_are_read(tmp_path):
    path = tmp_path / "teams.csv"
    path.write_text('team,key\nred,k1\n"blue, the",k2\n')
    assert read_teams(path) == {"red": "k1", "blue, the": "k2"}
    path.write_text("team,key\nred,\nred,k2\n")
    with pytest.raises(InputError, match=r"line 2: has no key\n.*1 team more than once: team 'red' \(lines 2, 3\)"):
        read_teams(path)


# HTTP


def test_the_client_submits_and_keeps_to_the_cooldown_of_the_server(tmp_path, passed):
    path, ledger, screen = tmp_path / "submission.csv", tmp_path / "submissions.jsonl", io.StringIO()
    write_submission(path, IDS, attack(1, 2.0))
    teacher = grader(
        cooldowns=Cooldowns(success=timedelta(seconds=2)), clock=lambda: START + timedelta(seconds=passed[0])
    )
    with answering(PracticeServer(teacher)) as server:
        board = Leaderboard(server.url, "01-mia", SecretStr("key-red"))
        first = submit(path, IDS, board, ledger=ledger, cooldowns=NO_COOLDOWN)
        # The client believes that there is no cooldown; the server tells it how long to wait.
        second = submit(path, IDS, board, ledger=ledger, cooldowns=NO_COOLDOWN, console=Console(file=screen))
        ranking = fetch(urllib.request.Request(server.url + "/leaderboard.json"))[2]
    assert first.score == teacher.ranking()[0].public.value
    assert [record.outcome for record in read_ledger(ledger)] == [Outcome.ACCEPTED, Outcome.BUSY, Outcome.ACCEPTED]
    assert second.submission_id != first.submission_id
    assert "waiting for the cooldown" in screen.getvalue()
    assert passed[0] == pytest.approx(2)
    assert ranking == [{"team": "red", "score": first.score, "submissions": 2}]


@pytest.mark.parametrize("files", [("a.csv", "a.csv"), ("a.csv", "b.csv")], ids=["one file", "two files"])
def test_of_two_commands_side_by_side_one_uploads(tmp_path, files):
    """Whichever comes second finds the lock or the cooldown, and the ledger holds what the server took."""
    for seed, name in enumerate(("a.csv", "b.csv")):
        write_submission(tmp_path / name, IDS, attack(seed, 2.0))
    (tmp_path / "priv.csv").write_text("id,label,x\n" + "".join(f"{id_},0,0\n" for id_ in IDS))
    with answering(PracticeServer(grader())) as server:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "JAXMIA_API_KEY": "key-red", "JAXMIA_LEADERBOARD_URL": server.url}
        commands = [
            subprocess.Popen(
                [sys.executable, "-m", "jaxmia", "submit", name, "--private", "priv.csv"],
                cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for name in files
        ]  # fmt: skip
        told = [(*command.communicate(timeout=300), command.returncode) for command in commands]
        ranking = fetch(urllib.request.Request(server.url + "/leaderboard.json"))[2]
    assert sorted(code for _, _, code in told) == [0, 1], told
    (refused,) = (err for _, err, code in told if code)
    assert re.search(
        r"not sent: (another submission is under way|the cooldown lasts another (60 min|5\d min))", refused
    )
    (record,) = read_ledger(tmp_path / "submissions.jsonl")
    assert record.outcome is Outcome.ACCEPTED
    assert ranking == [{"team": "red", "score": record.score, "submissions": 1}]


@pytest.mark.parametrize(
    ("task", "key", "message"),
    [
        ("01-mia", "key-green", r"the key was refused \(401\): the header X-API-Key holds no team's key; check JAXMIA"),
        ("02-mia", "key-red", r"no such task at this address \(404\): nothing here; files go to /submit/01-mia; check"),
    ],
)
def test_the_client_is_told_of_a_wrong_key_or_task(tmp_path, task, key, message):
    path = tmp_path / "submission.csv"
    write_submission(path, IDS, attack(1, 2.0))
    with (
        answering(PracticeServer(grader())) as server,
        pytest.raises(InputError, match=message) as error,
    ):
        submit(path, IDS, Leaderboard(server.url, task, SecretStr(key)), ledger=tmp_path / "ledger.jsonl")
    assert key not in str(error.value)


def test_the_client_is_told_of_too_large_a_file(tmp_path):
    path = tmp_path / "submission.csv"
    write_submission(path, IDS, attack(1, 2.0))
    with (
        answering(PracticeServer(grader(), max_body=5000)) as server,
        pytest.raises(
            InputError, match=r"too large for the leaderboard \(413\): [0-9,]+ bytes are too many.*2 min 0 s"
        ),
    ):
        submit(path, IDS, Leaderboard(server.url, "01-mia", SecretStr("key-red")), ledger=tmp_path / "ledger.jsonl")


def test_a_stranger_to_our_client_is_answered_by_the_same_interface(records: Records):
    with answering(PracticeServer(grader(clock=lambda: START))) as server:
        status, _, told = post(server, form(csv_bytes(attack(1, 2.0))))
        assert (status, set(told), told["status"]) == (200, {"submission_id", "status", "score"}, "success")
        status, headers, told = post(server, form(csv_bytes(attack(1, 2.0))))
        assert (status, told["status"]) == (429, "error")
        assert headers["Retry-After"] == "3600"
        status, _, told = post(server, form(b"id,score\np0,nan\n"), key="key-blue")
        assert (status, told["message"]) == (
            422,
            "399 private ids without a row: 'p1', 'p2', 'p3', and 396 more; "
            "1 score not finite: line 2 (id 'p0'): 'nan'",
        )
    assert telling(records[:1], "red", "accepted", "TPR at 5% FPR", "0.") == ["INFO"]
    assert telling(records[1:], "blue", "rejected", "399 private ids", "'p1', 'p2', 'p3'") == ["INFO"]
    assert not telling(records, "key-")


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"POST /submit/01-mia HTTP/1.1\r\nX-API-Key: key-red\r\n\r\n", 411),
        (b"POST /submit/01-mia HTTP/1.1\r\nX-API-Key: key-red\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST /submit/01-mia HTTP/1.1\r\nX-API-Key: key-red\r\nContent-Length: 9\r\n\r\nshort", 400),
        (b"POST /submit/01-mia HTTP/1.1\r\nX-API-Key: key-red\r\nContent-Length: 5\r\n\r\nplain", 400),
        (b"POST /submit/01-mia HTTP/1.1\r\nX-API-Key: key-r\xe9d\r\nContent-Length: 0\r\n\r\n", 401),
        (b"POST /submit/01-mia HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 401),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"DELETE / HTTP/1.1\r\n\r\n", 501),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_strange_requests_get_an_answer(request_text, status, capfd):
    with answering(PracticeServer(grader())) as server:
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
            connection.sendall(request_text)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as file:
                received = file.read()
        assert (f" {status} ".encode() in received.split(b"\r\n")[0]) or f"code: {status}".encode() in received
        assert post(server, form(csv_bytes(attack(1, 2.0))), key="key-blue")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_client_that_sends_too_much_gets_its_answer():
    with answering(PracticeServer(grader())) as server:
        status, _, told = post(server, b"x" * 30_000_000)
    assert (status, told["message"]) == (413, "30,000,000 bytes are too many, expected at most 16,777,216")


def test_failed_requests_begin_the_short_cooldown_and_strangers_none():
    with answering(PracticeServer(grader(clock=lambda: START))) as server:
        assert post(server, b"junk", key="who")[0] == 401
        assert post(server, b"junk")[0] == 400
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
            connection.sendall(b"POST /submit/01-mia HTTP/1.1\r\nX-API-Key: key-blue\r\n\r\n")
            assert b" 411 " in connection.recv(2**16)
        for key in KEYS.values():
            status, headers, _ = post(server, form(csv_bytes(attack(1, 2.0))), key=key)
            assert (status, headers["Retry-After"]) == (429, "120")


def test_only_this_machine_reaches_the_server():
    with PracticeServer(grader()) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"


def test_a_held_upload_that_ends_as_a_bad_form_does_not_shorten_a_cooldown():
    head = b"POST /submit/01-mia HTTP/1.1\r\nX-API-Key: key-red\r\nContent-Length: 5\r\n\r\n"
    with answering(PracticeServer(grader())) as server:
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as held:
            held.sendall(head + b"pla")
            wait_until(lambda: threads_in("_body"))  # the server has let it in, and waits for the rest
            assert post(server, form(csv_bytes(attack(1, 2.0))))[0] == 200
            held.sendall(b"in")
            with held.makefile("rb") as file:
                assert b" 400 " in file.readline()
        status, headers, _ = post(server, form(csv_bytes(attack(1, 2.0))))
        assert (status, int(headers["Retry-After"]) > 3500) == (429, True)


def test_an_upload_of_millions_of_lines_takes_little_memory():
    body = form(b"a\n" * (8 * 2**20 - 200))
    with answering(PracticeServer(grader())) as server, traced() as peak:
        status, _, told = post(server, body)
    assert status == 422
    assert told["message"] == "has 8,388,408 lines, expected 401: the header and one for each private sample"
    assert peak() < 8 * len(body)


def test_the_page_is_shown_while_an_upload_is_parsed(monkeypatch):
    parsing, shown = threading.Event(), threading.Event()

    def parse_slowly(*arguments):
        parsing.set()
        assert shown.wait(20)
        return parse_submission(*arguments)

    monkeypatch.setattr("jaxmia.leaderboard.grading.parse_submission", parse_slowly)
    with answering(PracticeServer(grader())) as server:
        upload = threading.Thread(target=post, args=(server, form(csv_bytes(attack(1, 2.0)))))
        upload.start()
        assert parsing.wait(20)
        assert fetch(urllib.request.Request(server.url + "/leaderboard.json"))[2] == []
        shown.set()
        upload.join()
        assert len(fetch(urllib.request.Request(server.url + "/leaderboard.json"))[2]) == 1


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_form_gives_back_its_file(before, data):
    other = b'--XX\r\nContent-Disposition: form-data; name="note"\r\n\r\n' + before.replace(b"XX", b"") + b"\r\n"
    data = data.replace(b"XX", b"")
    assert file_of('multipart/form-data; charset=x; boundary="XX"', other + form(data)) == data


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("", form(b"x")),
        ("multipart/form-data", form(b"x")),
        ("text/csv; boundary=XX", form(b"x")),
        ("multipart/form-data; boundary=YY", form(b"x")),
        ("multipart/form-data; boundary=XX", b""),
        ("multipart/form-data; boundary=XX", form(b"x")[:-6]),
        ("multipart/form-data; boundary=XX", form(b"x").replace(b'name="file"', b'name="files"')),
        ("multipart/form-data; boundary=XX", form(b"x").replace(b"--XX--\r\n", b"") + form(b"y")),
        ("multipart/form-data; boundary=XX", form(b"x").replace(b"\r\n\r\n", b"\r\n")),
        ("multipart/form-data; boundary=XX", b"--XX\r\n" * 10_000 + form(b"x")),
    ],
)
def test_a_form_without_one_whole_file_is_none(content_type, body):
    assert file_of(content_type, body) is None


@given(st.text(), st.binary())
def test_any_form_is_read_or_refused(content_type, body):
    for kind in (content_type, f"multipart/form-data; boundary={content_type}", "multipart/form-data; boundary=X"):
        file_of(kind, b"--X\r\n" + body)


def test_the_page_ranks_and_escapes():
    keys = {"<script>alert(1)</script>": "k1", "blue": "k2"}
    teacher = Grader(IDS, np.array(IDS), TRUTH, keys, cooldowns=NO_COOLDOWN)
    assert "No submission yet." in page(teacher.ranking())
    teacher.grade("blue", csv_bytes(attack(1, 0.0)))
    teacher.grade("<script>alert(1)</script>", csv_bytes(attack(1, 3.0)))
    html = page(teacher.ranking())
    assert "<script" not in html
    assert html.index("&lt;script&gt;") < html.index("blue")
    first = teacher.ranking()[0].public
    assert f"{first.value:.4f}" in html
    assert f"{first.low:.3f} to {first.high:.3f}" in html
    assert not re.search(r"""(src|href)\s*=|url\(|@import""", html)  # works without a network
    assert "key" not in html
    assert "k1" not in html


def test_the_page_is_served_and_may_load_nothing():
    with answering(PracticeServer(grader())) as server:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(server.url + "/", timeout=20) as response:
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert "No submission yet." in response.read().decode()


def test_serve_shows_what_to_set_and_ends_with_the_final_ranking(tmp_path, monkeypatch, records: Records):
    truth, lines = tmp_path / "truth.csv", []
    with truth.open("w", newline="") as file:
        writer = csv_module.writer(file)
        writer.writerows([("id", "membership"), *zip(IDS, TRUTH.astype(int), strict=True)])

    def one_submission_then_interrupt(server):
        settings = dict(item.split("=", 1) for line in lines if line.startswith("export") for item in line.split()[1:])
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        post(server, form(csv_bytes(attack(1, 3.0))), key=settings["JAXMIA_API_KEY"])
        thread.join()
        assert settings["JAXMIA_LEADERBOARD_URL"] == server.url
        raise KeyboardInterrupt

    monkeypatch.setattr(PracticeServer, "serve_forever", one_submission_then_interrupt)
    ranking = serve(IDS, truth, announce=lines.append, port=0, seed=5)
    assert [line.count("=") for line in lines if line.startswith("export")] == [1, 1, 1], "lines that .env takes"
    final = ~split(IDS, 5)
    assert [standing.final.value for standing in ranking] == [tpr_at_fpr(attack(1, 3.0)[final], TRUTH[final], 0.05)]
    serve(IDS, truth, announce=lines.append, port=0, seed=5)
    keys = [line.split("=")[1] for line in lines if "API_KEY" in line]
    assert len(set(keys)) == 2, "each run has a key of its own"
    assert telling(records, "accepted") == ["INFO", "INFO"]
    assert not [key for key in keys if telling(records, key)]


def test_a_port_that_is_taken_is_refused():
    with PracticeServer(grader()) as server, pytest.raises(InputError, match=r"port: .*: Address already in use"):
        PracticeServer(grader(), port=server.server_port)
    with pytest.raises(InputError, match=r"^port: 70000 is not from 0 to 65535; 0 selects a free one$"):
        PracticeServer(grader(), port=70000)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("red,s3cret\n", "line 1: header is another, expected 'team,key'"),
        ("team;key\nred;s3cret\n", "line 1: header is another, expected 'team,key'"),
        ("team,key\nred;s3cret\n", "1 row not of two columns: line 2: 1 column"),
        ('team,key\nred,"s3cret\n', "line 2: cannot be read as CSV"),
        ("team,key\n,s3cret\n", "line 2: has no team"),
    ],
)
def test_keys_of_teams_are_never_quoted(tmp_path, text: str, complaint: str):
    path = tmp_path / "teams.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint) as caught:
        read_teams(path)
    assert "s3cret" not in str(caught.value)
