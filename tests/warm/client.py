"""Has a forked process run what Python would run with these arguments, and ends as it does."""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import BinaryIO

# Libraries read variables like these when they are imported; XLA reads its flags later.
_READ_AT_IMPORT = ("JAX_", "PYTHON", "OMP_", "MKL_", "OPENBLAS", "TORCH_", "MPL", "LANG", "LC_", "HOME", "VIRTUAL_ENV")
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def _at_import(environment: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_READ_AT_IMPORT) and name != "JAX_PLATFORMS"  # the server sets it before JAX is used
    }


def _fork(folder: Path, environment: dict[str, str]) -> tuple[int, BinaryIO] | None:
    """The number of the forked process, and a file that will hold how it ends; None where the server has ended."""
    about = {"arguments": sys.argv[1:], "directory": str(Path.cwd()), "environment": environment}
    request = json.dumps(about).encode()
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(f"\0{folder.parent.name}")
            socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
            server.sendall(request)
            answers = server.makefile("rb")
        return int(answers.readline()), answers
    except (OSError, ValueError):
        return None


def main() -> None:
    """Without the server, or its settings of what imports depend on, Python starts anew."""
    folder = Path(__file__).parent
    environment = dict(os.environ)
    imported_with = json.loads((folder / "environment.json").read_text())
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)  # until it is known to whom
    forked = _fork(folder, environment) if _at_import(environment) == _at_import(imported_with) else None
    if forked is None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    pid, answers = forked
    for number in _PASSED_ON:
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    status = int(answers.readline())
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


main()
