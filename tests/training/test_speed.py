import sys
import time

import pytest

from jaxmia.training import speed
from jaxmia.training.speed import PeerError, SubprocessPeer, fastest, rate, settle, steady_rate

SLEEPER = """
import time
from jaxmia.training.speed import serve

class Sleeper:
    '''Says 1 ms of a call; after a rest of half a second, 40 ms of each of the first ten calls.'''
    images = 1
    slow, last = 0, 0.0

    def warm_up(self):
        return 0.25

    def seconds(self):
        started = time.perf_counter()
        if started - self.last > 0.5:
            self.slow = 10
        taken = 0.04 if self.slow > 0 else 0.001
        time.sleep(taken)
        self.slow -= 1
        self.last = time.perf_counter()
        return taken

serve(Sleeper())
"""


class Planned:
    """Takes the given times, and ever after the last one."""

    images = 10

    def __init__(self, *times):
        self.times, self.calls = times, 0

    def warm_up(self):
        return 0.0

    def seconds(self):
        self.calls += 1
        return self.times[min(self.calls, len(self.times)) - 1]


def script(text, processes=1):
    return SubprocessPeer([sys.executable, "-c", text], processes)


def test_a_rate_is_that_of_as_many_calls_as_fill_the_time():
    timed = Planned(0.25)
    assert rate(timed, 1.0) == 40.0
    assert timed.calls == 4
    assert rate(Planned(0.25), 0.9) == 40.0
    assert rate(Planned(3.0), 1.0) == pytest.approx(10 / 3)


def test_a_slow_start_is_left_out():
    start = [0.05] * 8
    assert rate(Planned(*start, 0.001), 1.0) < 7_000
    assert steady_rate(Planned(*start, 0.001), 1.0) == pytest.approx(10_000)
    getting_faster = [0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02, 0.015]
    assert steady_rate(Planned(*getting_faster, 0.01), 1.0) == pytest.approx(1_000)


def test_the_fastest_time_is_the_least(monkeypatch):
    now, times = [0.0], iter([0.03, 0.002, *[0.03] * 20])

    def act():
        now[0] += next(times)

    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    assert fastest(act, 0.2) == pytest.approx(0.002)
    assert now[0] == pytest.approx(0.212)


def test_settling_takes_half_a_second_and_gives_up_after_five():
    steady, erratic = Planned(0.01), Planned(*[0.1, 0.3] * 100)
    settle(steady.seconds)
    assert steady.calls == pytest.approx(50, abs=11)
    settle(erratic.seconds)
    assert erratic.calls == pytest.approx(25, abs=1)


@pytest.mark.slow
def test_a_peer_that_wakes_up_slowly_is_timed_awake():
    peer = script(SLEEPER)
    assert peer.warm_up() == 0.25
    for _ in range(2):
        time.sleep(0.6)
        # 25 calls a second, if the start were timed.
        assert peer.images_per_second(0.1) == pytest.approx(1000)


@pytest.mark.slow
def test_rates_of_several_processes_are_added():
    assert script(SLEEPER, 3).images_per_second(0.1) == pytest.approx(3000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise ValueError('no such thing')", "crashed: ValueError: no such thing"),
        ("import sys; sys.exit(3)", "crashed: no output"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
    ],
)
def test_a_process_that_ends_says_how(text, said):
    with pytest.raises(PeerError, match=f"^{said}"):
        script(text).warm_up()


def test_a_crash_while_it_is_timed_is_told_too():
    text = SLEEPER.replace("started = time", "raise RuntimeError('lost the device'); started = time")
    peer = script(text)
    assert peer.warm_up() == 0.25
    with pytest.raises(PeerError, match="crashed: RuntimeError: lost the device"):
        peer.images_per_second(0.1)
