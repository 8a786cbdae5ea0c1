"""A practice leaderboard on this machine, with the interface, rules and cooldowns of the real one."""

import json
import logging
import math
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined

from jaxmia.errors import InputError, printable
from jaxmia.leaderboard.grading import FPR, PUBLIC_SHARE, Grader, Standing
from jaxmia.leaderboard.ledger import DEFAULT_COOLDOWNS, Cooldowns
from jaxmia.leaderboard.settings import KEY, TASK, URL
from jaxmia.leaderboard.submission import read_truth
from jaxmia.leaderboard.table import parse_table, read_bytes, refuse, repeated_ids

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
DEFAULT_PORT = 8026
MAX_BODY_BYTES = 16 * 2**20
LONE_TEAM = "you"

_DRAINED_BYTES = 4 * MAX_BODY_BYTES
_BOUNDARY = re.compile(r"""multipart/form-data\s*;(?:.*;)?\s*boundary="?([!#-+\--:<-~]{1,70})"?""", re.IGNORECASE)
_FILE_FIELD = re.compile(rb"""^content-disposition:\s*form-data\s*;(?:.*;)?\s*name="?file"?\s*(?:;|$)""", re.I | re.M)
_MAX_PARTS = 16
_MAX_HEAD = 2**13


def serve(
    private_ids: Iterable[object],
    truth: Path,
    *,
    announce: Callable[[str], None],
    teams: Path | None = None,
    port: int = DEFAULT_PORT,
    task: str = "01-mia",
    seed: int = 0,
    cooldowns: Cooldowns = DEFAULT_COOLDOWNS,
) -> list[Standing]:
    """Runs the practice leaderboard on loopback until Ctrl-C, and returns the ranking by the final share.

    Args:
        private_ids: Ids that a submission must score.
        truth: CSV of `id,membership`; ids that are not private are left out.
        announce: Shows a line to the user. It must not write to a log, since a line may contain a key.
        teams: CSV of `team,key`; by default there is one team, whose new key is announced.
        port: Port to listen on; 0 selects a free one.
        task: Name of the task.
        seed: Seed for drawing the public share.
        cooldowns: Cooldowns after a submission.

    Raises:
        InputError: The truth or the teams cannot be used, or the port is taken.
    """
    key_of = read_teams(teams) if teams else {LONE_TEAM: secrets.token_urlsafe(16)}
    shown = printable(str(truth))
    grader = Grader(private_ids, *read_truth(truth), key_of, seed=seed, cooldowns=cooldowns, truth=shown)
    with PracticeServer(grader, task=task, port=port) as server:
        announce(f"practice leaderboard: {server.url} (Ctrl-C ends it and shows the final ranking)")
        announce(f"export {URL}={server.url}")
        announce(f"export {TASK}={task}")
        if not teams:
            announce(f"export {KEY}={key_of[LONE_TEAM]}")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    return sorted(grader.ranking(), key=lambda standing: (-standing.final.value, standing.time))


def read_teams(path: Path) -> dict[str, str]:
    """Reads the key of each team from `team,key` rows.

    Raises:
        InputError: The file cannot be read, a team occurs twice, or a key is empty.
    """
    table = parse_table(read_bytes(path), ("team", "key"), secret=True)
    broken = table.broken + [
        f"line {row.line}: has no {name}"
        for row in table.rows()
        for name, value in (("team", row.id), ("key", row.value))
        if not value
    ]
    refuse(path, broken + repeated_ids(table, "team"))
    return {row.id: row.value or "" for row in table.rows()}


class PracticeServer(ThreadingHTTPServer):
    """HTTP server on the loopback interface that answers each request in a separate thread.

    Args:
        grader: Grades the submissions.
        task: Name of the task, the last part of the address for uploads.
        port: Port to listen on; 0 selects a free one.
        max_body: Largest upload in bytes; a larger one is answered with 413.

    Raises:
        InputError: The port cannot be listened on.
    """

    daemon_threads = True

    def __init__(
        self,
        grader: Grader,
        *,
        task: str = "01-mia",
        port: int = 0,
        max_body: int = MAX_BODY_BYTES,
    ) -> None:
        self.grader, self.task, self.max_body = grader, task, max_body
        try:
            super().__init__((HOST, port), _Handler)
        except OverflowError as error:
            raise InputError(f"port: {port} is not from 0 to 65535; 0 selects a free one") from error
        except OSError as error:
            raise InputError(f"port: {port}: {error.strerror or error}; choose another, or 0 for a free one") from error

    @property
    def url(self) -> str:
        """Base address, for `JAXMIA_LEADERBOARD_URL`."""
        return f"http://{HOST}:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that close the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def page(standings: Sequence[Standing]) -> str:
    """Formats the ranking by the public share as an HTML page."""
    environment = Environment(
        loader=PackageLoader("jaxmia.leaderboard", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("ranking.html.jinja").render(standings=standings, fpr=FPR, share=PUBLIC_SHARE)


class _Handler(BaseHTTPRequestHandler):
    timeout = 30  # seconds without receiving a byte

    def do_GET(self) -> None:
        server = self._server
        if self.path == "/":
            self._send(200, page(server.grader.ranking()).encode(), "text/html; charset=utf-8")
        elif self.path == "/leaderboard.json":
            ranking = [
                {"team": standing.team, "score": standing.public.value, "submissions": standing.accepted}
                for standing in server.grader.ranking()
            ]
            self._send_json(200, ranking)
        else:
            self._refuse(404, f"nothing here; the ranking is at /, files go to /submit/{server.task}")

    def do_POST(self) -> None:
        server, grader = self._server, self._server.grader
        if self.path != f"/submit/{server.task}":
            self._refuse(404, f"nothing here; files go to /submit/{server.task}")
            return
        team = grader.team_of(self.headers.get("X-API-Key", ""))
        if team is None:
            self._refuse(401, "the header X-API-Key holds no team's key")
            return
        if wait := grader.wait(team):
            self._refuse_until(wait)
            return
        body = self._body()
        if body is None:
            grader.fail(team)
            return
        data = file_of(self.headers.get("Content-Type", ""), body)
        if data is None:
            grader.fail(team)
            self._refuse(400, "expected multipart/form-data with one field named file")
            return
        grade = grader.grade(team, data)
        if grade.wait:
            self._refuse_until(grade.wait)
        elif grade.broken:
            logger.info(f"{team}: rejected: {grade.broken[0]}")
            self._refuse(422, "; ".join(grade.broken))
        else:
            logger.info(f"{team}: accepted, TPR at {FPR:.0%} FPR on the public share {grade.public:.4f}")
            answer = {"submission_id": grade.submission_id, "status": "success", "score": grade.public}
            self._send_json(200, answer)

    @property
    def _server(self) -> PracticeServer:
        return cast(PracticeServer, self.server)

    def _body(self) -> bytes | None:
        """Reads the request's body; returns None if it is rejected, in which case the answer has been sent."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,18}", length):
            self._refuse(411, "expected a Content-Length")
            return None
        if int(length) > self._server.max_body:
            self._drain(int(length))
            self._refuse(413, f"{int(length):,} bytes are too many, expected at most {self._server.max_body:,}")
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self._refuse(400, f"the body ended after {len(body):,} of {int(length):,} bytes")
            return None
        return body

    def _drain(self, length: int) -> None:
        # A client that is still sending when the connection closes would not see the answer.
        left = min(length, _DRAINED_BYTES)
        while left > 0 and (chunk := self.rfile.read(min(left, 2**16))):
            left -= len(chunk)

    def _refuse_until(self, wait: timedelta) -> None:
        seconds = math.ceil(wait.total_seconds())
        self._refuse(429, f"the cooldown lasts another {seconds} s", {"Retry-After": str(seconds)})

    def _refuse(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._send_json(status, {"status": "error", "message": message}, headers)

    def _send_json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers)

    def _send(self, status: int, content: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def file_of(content_type: str, body: bytes) -> bytes | None:
    """The one field named `file` of a multipart form (RFC 7578); None if the form is anything else."""
    boundary = _BOUNDARY.match(content_type)
    if not boundary:
        return None
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode(), _MAX_PARTS)
    if not parts or not parts[-1].startswith(b"--"):
        return None
    files = []
    for part in parts[:-1]:
        head, found, content = part.partition(b"\r\n\r\n")
        if found and len(head) <= _MAX_HEAD and _FILE_FIELD.search(head):
            files.append(content)
    return files[0] if len(files) == 1 else None
