"""Signals that stop a run: Ctrl-C, preemption by a scheduler, or an approaching time limit."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


_BY_SCHEDULER = (signal.SIGTERM, signal.SIGUSR1)
_ALL = (signal.SIGINT, *_BY_SCHEDULER)
_REQUEUE = "JAXMIA_REQUEUE_EXIT_CODE"
_SECONDS_TO_REPEAT = 0.05


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop and has nothing left to save.

    Attributes:
        number: Number of the signal.
        exit_code: 130, or `JAXMIA_REQUEUE_EXIT_CODE` for a signal of a scheduler, which then requeues the job.
    """

    def __init__(self, number: int, what: str = "the same command resumes") -> None:
        self.number = number
        self.exit_code = _exit_code(number)
        super().__init__(f"stopped by {signal.Signals(number).name}; {what}")


@contextmanager
def interruptible() -> Iterator[None]:
    """Makes SIGTERM and SIGUSR1 raise `Interrupted` within the block, as SIGINT raises `KeyboardInterrupt`.

    Python ignores exceptions in some places, such as destructors and the callbacks of the garbage collector. A signal
    whose exception was ignored is repeated until one is not.

    Does nothing outside the main thread, which alone receives signals.
    """

    def stop(number: int, frame: object) -> None:
        del frame
        raise Interrupted(number)

    with _handled(_BY_SCHEDULER, stop), _repeated_if_ignored():
        yield


@contextmanager
def stop_requests() -> Iterator[Callable[[], int | None]]:
    """Records signals within the block instead of raising, so that a loop can finish its step and save before it stops.

    Yields:
        A function that returns the number of the first signal received, or None.
    """
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        del frame
        if not came:
            logger.info(f"{signal.Signals(number).name}: saving; further signals have no effect")
        came.append(number)

    with _handled(_ALL, note):
        yield lambda: came[0] if came else None


@contextmanager
def _repeated_if_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    report, timers = sys.unraisablehook, list[threading.Timer]()

    def repeat(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        if not isinstance(error, KeyboardInterrupt):
            report(unraisable)
            return
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        # Raised at once, it would be ignored again.
        timers.append(threading.Timer(_SECONDS_TO_REPEAT, signal.pthread_kill, [threading.main_thread().ident, number]))
        timers[-1].start()

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = report
        for timer in timers:
            timer.cancel()
            timer.join()


@contextmanager
def _handled(numbers: tuple[signal.Signals, ...], handler: Callable[[int, object], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _exit_code(number: int) -> int:
    text = os.environ.get(_REQUEUE, "")
    asked = number in _BY_SCHEDULER and text.isdecimal() and 0 < int(text) < 256
    return int(text) if asked else 130
