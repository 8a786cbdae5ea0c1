"""Measures images per second in steady state, excluding warm-up and compilation, in this process and in others."""

import math
import select
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Protocol

_BLOCK_SECONDS = 0.1
_AGREEING_BLOCKS, _TOLERANCE = 3, 1.1
_LEAST_SECONDS, _MOST_SECONDS = 0.5, 5.0


SIZES = {"cpu": (512, 1024, 2048), "gpu": (4096, 8192)}
"""Sizes of the square matrices whose products are timed, by kind of device: each is the fastest for some library."""


class Timed(Protocol):
    """Training that can be timed, in calls of a few steps each."""

    @property
    def images(self) -> int:
        """Number of images in a call; known after the warm-up."""
        ...

    def warm_up(self) -> float:
        """Makes the first calls, which compile, and returns the seconds that they take only once."""
        ...

    def seconds(self) -> float:
        """Makes one call and returns its seconds."""
        ...


class PeerError(RuntimeError):
    """A timed process has ended early; the message says how, with the last line that it wrote."""


def settle(call: Callable[[], float]) -> None:
    """Repeats a call until its speed is steady, since caches, clock and threads need time to recover after a pause.

    The speed is steady once three consecutive tenths of a second agree within 10 %. This takes at least half a second,
    and is given up after five.

    Args:
        call: Does some work and returns its seconds.
    """
    spent, blocks = 0.0, []
    while True:
        taken = calls = 0
        while taken < _BLOCK_SECONDS:
            taken, calls = taken + call(), calls + 1
        spent += taken
        blocks = [*blocks, taken / calls][-_AGREEING_BLOCKS:]
        agree = len(blocks) == _AGREEING_BLOCKS and max(blocks) <= _TOLERANCE * min(blocks)
        if (agree and spent >= _LEAST_SECONDS) or spent >= _MOST_SECONDS:
            return


def fastest(action: Callable[[], object], seconds: float = 0.3) -> float:
    """Returns the shortest time that an action took: what the machine can do when nothing disturbs it."""
    least, end = math.inf, time.perf_counter() + seconds
    while least == math.inf or time.perf_counter() < end:
        started = time.perf_counter()
        action()
        least = min(least, time.perf_counter() - started)
    return least


def rate(timed: Timed, seconds: float) -> float:
    """Measures images per second over as many calls as fill the given seconds."""
    spent, images = 0.0, 0
    while spent < seconds or not images:
        spent += timed.seconds()
        images += timed.images
    return images / spent


def steady_rate(timed: Timed, seconds: float) -> float:
    """Measures `rate` once the speed is steady."""
    settle(timed.seconds)
    return rate(timed, seconds)


def serve(timed: Timed) -> None:
    """Times training in this process for a `SubprocessPeer`, which asks over standard input and output."""
    for line in sys.stdin:
        if line == "warm up\n":
            print(timed.warm_up(), flush=True)
            continue
        settle(timed.seconds)
        print("steady", flush=True)
        if seconds := _train_until_line(timed):
            print(rate(timed, float(seconds)), flush=True)
            _train_until_line(timed)


def _train_until_line(timed: Timed) -> str:
    """Trains, untimed, until a line arrives, so that no process is timed while the others are idle."""
    while not select.select([sys.stdin], [], [], 0)[0]:
        timed.seconds()
    return sys.stdin.readline()


class SubprocessPeer:
    """Training in separate processes, as users run it, without the settings that jaxmia makes for its own process.

    Args:
        command: Command of a program that calls `serve`.
        processes: Number of processes that run it at once; their rates are added.
        environment: Environment variables of the processes.
    """

    bytes = None
    """Memory of a call, which is unknown."""

    def __init__(
        self, command: Sequence[str], processes: int = 1, environment: Mapping[str, str] | None = None
    ) -> None:
        self._processes = [_Process(command, environment) for _ in range(processes)]

    def warm_up(self) -> float:
        """Makes the first calls, which compile, and returns the seconds that they take only once.

        Raises:
            PeerError: A process has ended.
        """
        return max(map(float, self._ask("warm up")))

    def images_per_second(self, seconds: float) -> float:
        """Measures images per second of all processes together, each in steady state and never idle.

        Raises:
            PeerError: A process has ended.
        """
        self._ask("settle")
        rates = self._ask(str(seconds))
        self._tell("rest")
        return sum(map(float, rates))

    def _ask(self, question: str) -> list[str]:
        self._tell(question)
        return [process.answer() for process in self._processes]

    def _tell(self, line: str) -> None:
        for process in self._processes:
            process.tell(line)


class _Process:
    """One process of a peer."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None) -> None:
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by _end
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=None if environment is None else dict(environment),
        )
        weakref.finalize(self, _end, self._process, self._stderr)

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._crash() from None

    def answer(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        raise self._crash()

    def _crash(self) -> PeerError:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr if line.strip()]
        return PeerError(f"killed by signal {-code}" if code < 0 else f"crashed: {lines[-1] if lines else 'no output'}")


def _end(process: subprocess.Popen, stderr: IO[str]) -> None:
    """Closes the standard input of a process, which ends it, and waits for its end."""
    with stderr, suppress(BrokenPipeError), process:
        pass
