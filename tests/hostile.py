"""An HTTP server that does what it likes with a request, and remembers what it was sent."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

Act = Callable[[socket.socket], None]


@dataclass(frozen=True)
class Unread:
    """Does something at once, without reading the request."""

    act: Act

    def __call__(self, connection: socket.socket) -> None:
        self.act(connection)


class Hostile:
    """Every connection is read to the end of its request, then handed to the next act; the last act repeats."""

    def __init__(self, *acts: Act) -> None:
        self.requests: list[bytes] = []
        self._acts = list(acts)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._thread.join()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self._open.append(connection)
                with suppress(OSError):
                    act = self._acts[min(len(self.requests), len(self._acts) - 1)]
                    self.requests.append(b"" if isinstance(act, Unread) else _request(connection))
                    act(connection)
                if act is not stay_silent:
                    connection.close()


@contextmanager
def hostile(*acts: Act) -> Iterator[Hostile]:
    server = Hostile(*acts)
    try:
        yield server
    finally:
        server.close()


def answer(status: int, body: bytes | str = b"", **headers: str) -> Act:
    """A well-formed answer; underscores in the names of headers stand for hyphens."""
    content = body if isinstance(body, bytes) else body.encode()
    fields = {"Content-Length": str(len(content)), "Content-Type": "application/json"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return raw(head.encode("latin-1") + b"\r\n" + content)


def raw(data: bytes) -> Act:
    return lambda connection: connection.sendall(data)


def hang_up(connection: socket.socket) -> None:
    connection.close()


def stay_silent(connection: socket.socket) -> None:
    del connection


def trickle(data: bytes) -> Act:
    """One byte every 50 ms, for as long as somebody listens."""

    def act(connection: socket.socket) -> None:
        pause = threading.Event()
        for byte in data:
            connection.sendall(bytes([byte]))
            pause.wait(0.05)

    return act


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += _more(connection)
    return head + b"\r\n\r\n" + body


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(2**16)
    if not data:
        raise ConnectionResetError
    return data
