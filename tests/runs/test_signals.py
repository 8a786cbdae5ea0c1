import gc
import os
import signal
import sys
import time
from collections.abc import Callable

import pytest

from jaxmia.runs.signals import Interrupted, interruptible


def signalling(number: int, times: int) -> Callable[[str, dict], None]:
    """A callback of the garbage collector in whose first calls the signal arrives."""
    left = [times]

    def callback(phase: str, info: dict) -> None:
        del info
        if phase == "start" and left[0]:
            left[0] -= 1
            os.kill(os.getpid(), number)
            _ = [0 for _ in range(1000)]

    return callback


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_that_arrives_in_a_callback_whose_errors_are_ignored_still_stops(number: signal.Signals, times: int):
    callback = signalling(number, times)
    gc.callbacks.append(callback)
    try:
        with pytest.raises(KeyboardInterrupt) as caught, interruptible():
            for _ in range(times):
                gc.collect()
            time.sleep(10)
    finally:
        gc.callbacks.remove(callback)
    if number != signal.SIGINT:
        assert isinstance(caught.value, Interrupted) and caught.value.number == number
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_other_ignored_errors_are_reported_as_before(monkeypatch: pytest.MonkeyPatch):
    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(unraisable.exc_value))

    class Failing:
        def __del__(self) -> None:
            raise ValueError("in a destructor")

    with interruptible():
        Failing()
    assert [str(error) for error in reported] == ["in a destructor"]
