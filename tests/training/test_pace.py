from types import SimpleNamespace
from typing import Any

import pytest

from jaxmia.training import pace
from jaxmia.training.pace import Pace
from jaxmia.training.programs import MOST_STEPS


def ensemble(in_one_call: bool, static: bool) -> Any:
    return SimpleNamespace(steps_in_one_call=in_one_call, steps_are_static=static)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a list of one."""
    now = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    return now


def chosen(found: Pace, clock: list[float], seconds_a_step: float, calls: int) -> list[int]:
    """Numbers of steps of calls one after another, whose steps take as long as given."""
    counts = []
    for _ in range(calls):
        counts.append(found.choose(10_000))
        clock[0] += counts[-1] * seconds_a_step
    return counts


def test_a_static_number_of_steps_is_the_largest(clock):
    assert chosen(Pace(ensemble(True, True)), clock, 5.0, 3) == [MOST_STEPS] * 3
    assert Pace(ensemble(True, True), 32).choose(20) == 20


def test_a_call_lasts_half_a_second(clock):
    assert chosen(Pace(ensemble(True, False)), clock, 0.05, 4) == [1, 10, 10, 10]
    assert chosen(Pace(ensemble(True, False)), clock, 3.0, 3) == [1, 1, 1]
    assert chosen(Pace(ensemble(True, False)), clock, 1e-4, 3) == [1, MOST_STEPS, MOST_STEPS]


def test_the_first_call_compiles_and_does_not_count_for_long(clock):
    found = Pace(ensemble(True, False))
    assert found.choose(100) == 1
    clock[0] += 20.0
    assert chosen(found, clock, 0.05, 3) == [1, 10, 10]


def test_without_loops_a_call_is_a_step(clock):
    assert chosen(Pace(ensemble(False, False)), clock, 1e-4, 3) == [1, 1, 1]
