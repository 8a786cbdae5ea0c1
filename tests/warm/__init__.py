"""Python processes that have imported already what takes seconds: a server imports it once and forks.

`warm_python` is a program that tests start in place of `sys.executable`, unless the start itself is what they test.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

_ENVIRONMENT = dict(os.environ)
"""Variables before any test changes them."""
_CLIENT, _SERVER = (Path(__file__).with_name(name) for name in ("client.py", "server.py"))


def warm_python() -> str:
    """Path of a program that takes the arguments of Python: `-c code`, `-m module` or a script, and theirs.

    Input, output, directory, variables, signals and exit code are those of an interpreter of its own. The first of
    pytest's workers to ask starts the server, which ends with that worker; until another asks, Python starts anew.
    Elsewhere than on Linux it is Python itself.
    """
    if sys.platform != "linux":
        return sys.executable
    folder = Path(_ENVIRONMENT["XDG_CACHE_HOME"]) / "warm"
    folder.mkdir(exist_ok=True)
    program = folder / "python"
    with FileLock(folder / "lock"):
        if not program.exists():
            program.write_text(f"#!{sys.executable} -IS\n{_CLIENT.read_text()}")
            program.chmod(0o755)
        if not _answers(folder):
            _start(folder)
    return str(program)


def _answers(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(f"\0{folder.parent.name}")  # a name, since a path may be too long
        except OSError:
            return False
        return True


def _start(folder: Path) -> None:
    # It says that it is ready by closing its output; what it warns of is not the tests'.
    command = [sys.executable, str(_SERVER), str(folder), str(os.getpid())]
    process = subprocess.Popen(
        command,
        cwd=_SERVER.parent,
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout
    with process.stdout as ready:
        assert ready.read() == b"ready", "the server of warm processes does not start"
    process.returncode = 0  # it lives as long as this process, which need not wait for it
