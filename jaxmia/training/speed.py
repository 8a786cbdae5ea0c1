"""Images a second in steady state, in this process and in others: waking up and compiling are left out."""

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
"""Sides of the matrices whose products are timed, by kind of device: those that one or another library does best."""


class Timed(Protocol):
    """A training that can be timed, a call of some steps at a time."""

    @property
    def images(self) -> int:
        """Images a call, once warmed up."""
        ...

    def warm_up(self) -> float:
        """Makes the first calls, which compile; the seconds that are spent only once."""
        ...

    def seconds(self) -> float:
        """Makes one call; its time."""
        ...


class PeerError(RuntimeError):
    """A process that was to be timed has ended; says how, with the last line that it wrote."""


def settle(call: Callable[[], float]) -> None:
    """Calls until the speed is steady: caches, clock and threads of whoever has slept take a while to come back.

    The speed is steady once three tenths of a second in a row agree within a tenth. That takes half a second at least,
    and ends after five where it never comes.

    Args:
        call: Does some work; returns the seconds it took.
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
    """The least time that `action` took: what a machine can do when nothing is in its way."""
    least, end = math.inf, time.perf_counter() + seconds
    while least == math.inf or time.perf_counter() < end:
        started = time.perf_counter()
        action()
        least = min(least, time.perf_counter() - started)
    return least


def rate(timed: Timed, seconds: float) -> float:
    """Images a second over as many calls as fill `seconds`."""
    spent, images = 0.0, 0
    while spent < seconds or not images:
        spent += timed.seconds()
        images += timed.images
    return images / spent


def steady_rate(timed: Timed, seconds: float) -> float:
    """`rate`, once the speed is steady."""
    settle(timed.seconds)
    return rate(timed, seconds)


def serve(timed: Timed) -> None:
    """Lets the `SubprocessPeer` at the other end of standard input and output time a training in this process."""
    for line in sys.stdin:
        if line == "warm up\n":
            print(timed.warm_up(), flush=True)
            continue
        settle(timed.seconds)
        print("steady", flush=True)
        if told := _work_until_told(timed):
            print(rate(timed, float(told)), flush=True)
            _work_until_told(timed)


def _work_until_told(timed: Timed) -> str:
    """Trains on, untimed, until a line comes in, so that who is timed beside others never has the machine alone."""
    while not select.select([sys.stdin], [], [], 0)[0]:
        timed.seconds()
    return sys.stdin.readline()


class SubprocessPeer:
    """A training in processes of its own, as people run it: without what jaxmia sets up for its own process.

    Args:
        command: A program that calls `serve`.
        processes: How many run it at once; their rates are added.
        environment: Variables of the processes.
    """

    bytes = None
    """Memory of a call; it is not known."""

    def __init__(
        self, command: Sequence[str], processes: int = 1, environment: Mapping[str, str] | None = None
    ) -> None:
        self._processes = [_Process(command, environment) for _ in range(processes)]

    def warm_up(self) -> float:
        """Makes the first calls, which compile; the seconds that are spent only once.

        Raises:
            PeerError: A process has ended.
        """
        return max(map(float, self._ask("warm up")))

    def images_per_second(self, seconds: float) -> float:
        """Images a second over all processes, all of them in steady state and at work all the time.

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
        return PeerError(
            f"killed by signal {-code}" if code < 0 else f"crashed: {lines[-1] if lines else 'it said nothing'}"
        )


def _end(process: subprocess.Popen, stderr: IO[str]) -> None:
    """Closes what the process reads from, which ends it, and waits for that."""
    with stderr, suppress(BrokenPipeError), process:
        pass
