"""Sends a single HTTP POST request directly to an address, without proxies, redirects or stored credentials."""

import io
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

MAX_ANSWER_BYTES = 2**20


@dataclass(frozen=True)
class Limits:
    """Time limits in seconds: for the connection, for the next bytes, and for the whole upload."""

    connect: float = 10
    read: float = 60
    total: float = 180


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Response:
    """Response of the server; its body is read up to one byte more than `MAX_ANSWER_BYTES`."""

    status: int
    headers: Mapping[str, str]
    payload: bytes


def post(endpoint: str, stream: io.BytesIO, headers: Mapping[str, str], limits: Limits) -> Response:
    """Sends a body once. Only the connection is retried if it cannot be made, and no redirect is followed.

    Proxies, certificates and passwords from the environment or `~/.netrc` are not used. When the total time is over,
    the connection is closed before this returns.

    Args:
        endpoint: Full address.
        stream: Body, from its beginning; its final position tells how much may have been sent.
        headers: Headers of the request.
        limits: Time limits.

    Raises:
        TimeoutError: The total time is over.
        requests.RequestException, urllib3.exceptions.HTTPError: There was no answer.
    """
    deadline = _Deadline()
    try:
        with deadline.after(limits.total):
            response = _exchange(endpoint, stream, headers, (limits.connect, limits.read), deadline)
    except (requests.RequestException, HTTPError) as error:
        if deadline.is_over:
            raise TimeoutError from error
        raise
    if deadline.is_over:  # the response may have been cut off
        raise TimeoutError
    return response


class _Deadline:
    """Closes a connection when its time is over; a socket's timeout would never end an answer of one byte a minute."""

    def __init__(self) -> None:
        self.is_over = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    @contextmanager
    def after(self, seconds: float) -> Iterator[None]:
        """Closes connections that are made in the block once these seconds have passed."""
        timer = threading.Timer(seconds, self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def check(self) -> None:
        """Raises TimeoutError if the time is over."""
        if self.is_over:
            raise TimeoutError

    def watch(self, connection: socket.socket) -> None:
        """Registers a connection that was just made.

        Raises:
            TimeoutError: The time is over already.
        """
        with self._lock:
            self.check()
            self._socket = connection

    def _end(self) -> None:
        with self._lock:
            self.is_over = True
            if self._socket is not None:
                with suppress(OSError):
                    # Shuts down the plain socket: the TLS socket would drop its encryption while a thread still sends.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _exchange(
    endpoint: str, stream: io.BytesIO, headers: Mapping[str, str], timeout: tuple[float, float], deadline: _Deadline
) -> Response:
    with requests.Session() as session:
        session.trust_env = False
        for scheme in ("http://", "https://"):
            session.mount(scheme, _adapter(deadline))
        with session.post(
            endpoint, data=stream, headers=headers, timeout=timeout, allow_redirects=False, stream=True
        ) as response:
            try:
                payload = response.raw.read(MAX_ANSWER_BYTES + 1, decode_content=False)
            except HTTPError:
                payload = b""  # the status is known, and the rest is not JSON
            return Response(response.status_code, response.headers, payload)


def _adapter(deadline: _Deadline) -> HTTPAdapter:
    connect_only = Retry(total=None, connect=3, read=0, redirect=0, status=0, other=0, backoff_factor=0.2)
    adapter = HTTPAdapter(max_retries=connect_only)
    adapter.poolmanager.pool_classes_by_scheme = {
        "http": _watched(HTTPConnectionPool, HTTPConnection, deadline),
        "https": _watched(HTTPSConnectionPool, HTTPSConnection, deadline),
    }
    return adapter


def _watched(pool: type, connection: type, deadline: _Deadline) -> type:
    """Creates a class of connection pools whose connections the deadline closes."""

    def connect(self: Any) -> None:
        deadline.check()
        connection.connect(self)
        deadline.watch(self.sock)

    watched = type(connection.__name__, (connection,), {"connect": connect})
    return type(pool.__name__, (pool,), {"ConnectionCls": watched})
