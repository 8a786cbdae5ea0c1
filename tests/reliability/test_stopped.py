"""A run that was killed, or told to stop, ends as one that was not."""

import signal
from pathlib import Path

import numpy as np
import pytest

from tests.reliability.conftest import Chunks, assert_same, chunks, train

pytestmark = pytest.mark.slow

STAGES = {"epoch": 200, "query": 16, "write": 10, "time": 800}
"""Moments of a run, and how many of each there are at least."""


def moments(seed: int, count: int) -> list[tuple[str, int]]:
    rng = np.random.default_rng(seed)
    return [(stage, int(rng.integers(1, STAGES[stage]))) for stage in rng.permutation(list(STAGES))[:count].tolist()]


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_random_moments(tmp_path: Path, uninterrupted: Chunks, seed: int):
    """Twelve moments in all."""
    for stage, number in moments(seed, 2):
        code, said = train(tmp_path, stage, number, signal.SIGKILL)
        assert code in (-signal.SIGKILL, 0), said
    code, said = train(tmp_path)
    assert code == 0, said
    assert_same(chunks(tmp_path), uninterrupted)
    assert list((tmp_path / "checkpoints").glob("*")) == []
    assert list((tmp_path / "claims").glob("*.json")) == []


@pytest.mark.parametrize(
    ("number", "requeue", "expected"), [(15, "", 130), (15, "85", 85), (10, "85", 85), (2, "85", 130)]
)
def test_told_to_stop(tmp_path: Path, uninterrupted: Chunks, number: int, requeue: str, expected: int):
    """SIGTERM, SIGUSR1 and SIGINT; nothing of what was done is done again."""
    code, said = train(tmp_path, "epoch", 200, number, JAXMIA_REQUEUE_EXIT_CODE=requeue)
    assert code == expected
    name = signal.Signals(number).name
    assert said[-2] == f"{name}: saving; a second one changes nothing"
    assert said[-1].startswith(f"jaxmia: stopped by {name}; models 2-3 are saved at step ")
    assert said[-1].endswith(" of 600; the same command goes on from there")
    code, said = train(tmp_path)
    assert code == 0, said
    assert_same(chunks(tmp_path), uninterrupted)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    epochs = [line for line in lines if '"event": "epoch"' in line]
    assert len(epochs) == 3 * 150, "each epoch once, before or after"
