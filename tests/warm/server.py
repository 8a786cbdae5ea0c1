"""Imports what tests need, then forks for each request a process that runs as Python would."""

import atexit
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import jax

_IMPORTS = (
    "jaxmia.cli.main",
    "jaxmia.api",
    "jaxmia.pipeline.run",
    "jaxmia.pipeline.worker",
    "jaxmia.report.page",
    "jaxmia.training.weights",
    "orbax.checkpoint.experimental.v1",
    "bridge.open",
    "bridge.peers",
    "bridge.target",
    "bridge.trainer",
)


def serve(folder: Path, parent: int) -> Callable[[], None]:
    """Answers requests for as long as the parent lives; in a forked process, returns the program to run."""
    for name in _IMPORTS:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # looking through what was imported would copy its memory
    new = folder / "new.json"
    new.write_text(json.dumps(dict(os.environ)))
    new.replace(folder / "environment.json")  # at once: those who begin now read it
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{folder.parent.name}")
        server.listen()
        os.write(1, b"ready")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        while os.getppid() == parent:
            _reap()
            if not select.select([server], [], [], 1)[0]:
                continue
            client, _ = server.accept()
            with client:
                if os.fork():
                    continue
                server.close()
                return _answer(client)
    sys.exit()


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _answer(client: socket.socket) -> Callable[[], None]:
    """Forks again: one process returns the program to run, the other tells the client how that one ends."""
    head, descriptors, *_ = socket.recv_fds(client, 8, 3)
    if not head:
        os._exit(0)
    size, received = int.from_bytes(head, "big"), b""
    while len(received) < size:
        received += client.recv(size - len(received))
    if pid := os.fork():
        for descriptor in descriptors:
            os.close(descriptor)
        client.sendall(b"%d\n" % pid)
        ended = os.pidfd_open(pid)
        if ended not in select.select([ended, client], [], [])[0]:
            os.kill(pid, signal.SIGKILL)  # the client was killed
        _, status = os.waitpid(pid, 0)
        client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    client.close()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return _prepare(**json.loads(received))


def _prepare(arguments: list[str], directory: str, environment: dict[str, str]) -> Callable[[], None]:
    """Makes this process as one that was started anew; the program to run."""
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115 - open to the end
    sys.stdout = sys.__stdout__ = _text(1, sys.stdout.errors)
    sys.stderr = sys.__stderr__ = _text(2, "backslashreplace")
    if platforms := environment.get("JAX_PLATFORMS"):
        jax.config.update("jax_platforms", platforms)
    kind, *rest = arguments
    safe = kind == "-P"
    if safe:
        kind, *rest = rest
    if kind == "-c":
        code, *rest = rest
        sys.argv, sys.path[0] = ["-c", *rest], ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        return lambda: exec(compile(code, "<string>", "exec"), main.__dict__)
    if kind == "-m":
        module, *rest = rest
        sys.argv, sys.path[:1] = [module, *rest], [] if safe else [directory]
        return lambda: runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.argv, sys.path[0] = [kind, *rest], str(Path(kind).resolve().parent)
    return lambda: runpy.run_path(kind, run_name="__main__")


def _text(number: int, errors: str | None) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(number, "w", closefd=False)),
        errors=errors,
        line_buffering=number == 2 or os.isatty(number),
        write_through=bool(os.environ.get("PYTHONUNBUFFERED")),
    )


def run(program: Callable[[], None]) -> NoReturn:
    """Runs a program and ends without clearing away what was imported, which would copy its memory."""
    try:
        program()
        code = 0
    except SystemExit as stop:
        if not isinstance(stop.code, int | None):
            raise
        code = stop.code or 0
    threading._shutdown()  # waits for its threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


run(serve(Path(sys.argv[1]), int(sys.argv[2])))
