"""Uploads a file over HTTP and interprets the answer, which is not trusted."""

import io
import json
import math
import ssl
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, quote_plus

import requests
from pydantic import SecretStr
from urllib3.exceptions import HTTPError, InvalidHeader, LocationParseError
from urllib3.filepost import encode_multipart_formdata
from urllib3.util.retry import Retry

from jaxmia.leaderboard.ledger import MAX_WAIT, Outcome
from jaxmia.leaderboard.transport import MAX_ANSWER_BYTES, Limits, Response, post

_FAILURES = ("error", "fail", "failed", "failure", "rejected", "invalid")
_EXPLANATIONS = ("message", "detail", "error", "errors", "reason")


@dataclass(frozen=True)
class Answer:
    """Outcome of one upload.

    Attributes:
        outcome: Whether the file was sent and accepted.
        message: One line for the user that contains neither the key nor control characters.
        retry_after: Time that the server asks to wait; None if it does not.
        submission_id: Identifier that the server gave the submission.
        score: Score that the server returned.
    """

    outcome: Outcome
    message: str
    retry_after: timedelta | None = None
    submission_id: str | None = None
    score: float | None = None


def upload(endpoint: str, key: SecretStr, data: bytes, limits: Limits) -> Answer:
    """Uploads a file once.

    Only the connection is retried. Redirects are not followed, so that the key reaches no host but the one that the
    user named. Once the last byte has been sent, the file may have been accepted.

    Args:
        endpoint: Full address.
        key: API key, sent as `X-API-Key` and removed from all text of the answer.
        data: Content of the file.
        limits: Time limits.
    """
    fields = {"file": ("submission.csv", data, "application/csv")}
    body, content_type = encode_multipart_formdata(fields)
    stream = io.BytesIO(body)
    headers = {
        "X-API-Key": key.get_secret_value(),
        "Content-Type": content_type,
        "Accept": "application/json",
        "Accept-Encoding": "identity",  # so that no answer can unpack to gigabytes
    }
    try:
        response = post(endpoint, stream, headers, limits)
    except TimeoutError:
        if stream.tell() < len(body):
            return Answer(Outcome.UNSENT, f"not sent: the upload was not complete after {limits.total:g} s")
        return Answer(Outcome.UNKNOWN, f"no complete answer within {limits.total:g} s; the file may have been accepted")
    except (requests.RequestException, HTTPError) as error:
        reason = _clean(_reason(error), key)
        if stream.tell() < len(body):
            return Answer(Outcome.UNSENT, f"not sent: {reason}")
        return Answer(Outcome.UNKNOWN, f"sent, but no answer came ({reason}); the file may have been accepted")
    return _interpret(response, key)


def _interpret(response: Response, key: SecretStr) -> Answer:
    status, answer = response.status, _json(response.payload)
    explanation = _clean(_explanation(answer), key)
    detail = f": {explanation}" if explanation else ""
    retry_after = _retry_after(response.headers.get("Retry-After"))
    if 200 <= status < 300:
        if isinstance(answer, dict):
            return _interpret_success(status, answer, detail, key)
        what = _no_json(response)
        return Answer(Outcome.UNKNOWN, f"the answer ({status}) is {what}; the file may have been accepted")
    if 300 <= status < 400:
        # Servers also answer 302 and 303 after accepting a form.
        outcome = Outcome.UNKNOWN if status in (302, 303) else Outcome.REFUSED
        where = _clean(response.headers.get("Location", "nowhere"), key)
        message = f"redirects to {where} ({status}); not followed, so that the key reaches no other host"
        return Answer(outcome, f"{message}. If that is the leaderboard, set JAXMIA_LEADERBOARD_URL to it")
    if status in (401, 403):
        return Answer(Outcome.REFUSED, f"the key was refused ({status}){detail}; check JAXMIA_API_KEY")
    if status in (404, 405):
        return Answer(
            Outcome.REFUSED, f"no such task at this address ({status}){detail}; check the address and the task"
        )
    if status == 413:
        return Answer(Outcome.REJECTED, f"the file is too large for the leaderboard (413){detail}")
    if status == 429 or (status == 503 and retry_after is not None):
        return Answer(Outcome.BUSY, f"the leaderboard asks to try again later ({status}){detail}", retry_after)
    if 400 <= status < 500:
        return Answer(Outcome.REJECTED, f"the file was rejected ({status}){detail}")
    return Answer(Outcome.UNKNOWN, f"the leaderboard failed ({status}){detail}; the file may have been accepted")


def _interpret_success(status: int, answer: dict[str, Any], detail: str, key: SecretStr) -> Answer:
    if str(answer.get("status", "")).lower() in _FAILURES or ("error" in answer and "submission_id" not in answer):
        return Answer(Outcome.REJECTED, f"the file was rejected ({status}){detail}")
    named = answer.get("submission_id")
    if isinstance(named, bool) or not isinstance(named, str | int) or named == "":
        message = f"the answer ({status}) has no submission_id{detail}; the file may have been accepted"
        return Answer(Outcome.UNKNOWN, message)
    name, score = _clean(str(named), key), _score(answer.get("score"))
    points = "" if score is None else f", score {score:.4f}"
    return Answer(Outcome.ACCEPTED, f"accepted as {name}{points}{detail}", submission_id=name, score=score)


def _no_json(response: Response) -> str:
    if len(response.payload) > MAX_ANSWER_BYTES:
        return f"more than {MAX_ANSWER_BYTES:,} bytes"
    if "html" in response.headers.get("Content-Type", "") or response.payload.lstrip().startswith(b"<"):
        return "an HTML page instead of JSON (is the address right?)"
    return "not a JSON object"


def _json(payload: bytes) -> Any:
    if len(payload) > MAX_ANSWER_BYTES:
        return None
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return None


def _explanation(answer: Any) -> str:
    if not isinstance(answer, dict):
        return ""
    text = next((answer[name] for name in _EXPLANATIONS if answer.get(name)), "")
    return text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)


def _score(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def _retry_after(value: str | None) -> timedelta | None:
    if value is None:
        return None
    try:
        seconds = Retry().parse_retry_after(value)
    except (InvalidHeader, ValueError, OverflowError):
        return None
    return timedelta(seconds=min(seconds, MAX_WAIT.total_seconds()))


def _reason(error: BaseException) -> str:
    """Innermost reason of a failed connection, without the memory addresses of Python objects."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection in time; is there a network?"
    if isinstance(error, requests.exceptions.ReadTimeout):
        return "read time-out"
    if isinstance(error, requests.exceptions.InvalidURL | LocationParseError):
        return "the address names no host that can be looked up"
    innermost: BaseException | None = error
    reason = ""
    while innermost is not None:
        if isinstance(innermost, ssl.SSLError):
            return f"TLS failed: {getattr(innermost, 'verify_message', '') or innermost.reason}"
        if isinstance(innermost, OSError) and innermost.strerror:
            reason = innermost.strerror
        innermost = innermost.__cause__ or innermost.__context__
    return reason or "connection dropped"


def _clean(text: str, key: SecretStr) -> str:
    """Returns the text as one short line that is safe on a terminal and does not contain the key."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    line, secret = " ".join(printable.split()), key.get_secret_value()
    for form in (secret, quote(secret, safe=""), quote_plus(secret)):
        line = line.replace(form, "***")
    return line if len(line) <= 200 else f"{line[:197]}..."
