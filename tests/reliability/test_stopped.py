"""A run that was killed, or told to stop, ends as one that was not."""

import re
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.reliability.conftest import Chunks, Jobs, assert_same
from tests.reliability.worker import EPOCHS, Moment

pytestmark = pytest.mark.slow

STAGES = {"epoch": EPOCHS * 4 // 3, "query": 16, "write": 10, "time": 300}
"""Moments of a run, and how many of each there are at least."""


def moments(seed: int, count: int, number: int) -> list[Moment]:
    """Random ones, of each stage as often as of the others."""
    rng = np.random.default_rng(seed)
    stages = rng.permutation(np.resize(list(STAGES), count)).tolist()
    return [Moment(stage, int(rng.integers(1, STAGES[stage])), number) for stage in stages]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("seed", range(3))
def test_ended_at_random_moments(jobs: Jobs, tmp_path: Path, uninterrupted: Chunks, seed: int, number: int):
    """Twelve moments of each signal in all; every process begins where the one before it was ended."""
    ended = 0
    for moment in moments(seed, 4, number):
        code, said = jobs.run(tmp_path, moment=moment)
        # A moment may come after the last chunk; a process that has just been told to stop may be done anyway.
        assert code in ({signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 130}[number], 0), said
        assert not any("Traceback" in line for line in said), said
        ended += code != 0
    assert ended >= 2, "most moments come before the end"
    code, said = jobs.run(tmp_path)
    assert code == 0, said
    assert_same(tmp_path, uninterrupted)


def test_told_to_stop(jobs: Jobs, tmp_path: Path, uninterrupted: Chunks):
    """SIGTERM, SIGUSR1 and SIGINT, one after the other; nothing of what was done is done again."""
    requeue = {"JAXMIA_REQUEUE_EXIT_CODE": "85"}
    for number, environment, expected in (
        (signal.SIGTERM, {}, 130),
        (signal.SIGTERM, requeue, 85),
        (signal.SIGUSR1, requeue, 85),
        (signal.SIGINT, requeue, 130),
    ):
        code, said = jobs.run(tmp_path, moment=Moment("epoch", EPOCHS // 2, number), environment=environment)
        assert code == expected
        name = signal.Signals(number).name
        assert name in said[-2] and "saving" in said[-2]
        assert re.search(rf"{name}.*models \d-\d are saved at step \d+ of \d+", said[-1])
    code, said = jobs.run(tmp_path)
    assert code == 0, said
    assert_same(tmp_path, uninterrupted)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    epochs = [line for line in lines if '"event": "epoch"' in line]
    assert len(epochs) == 3 * EPOCHS, "each epoch once, before or after"
