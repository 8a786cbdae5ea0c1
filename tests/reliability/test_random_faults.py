"""A run of 64 models to which one thing after another happens ends with the bits of a run to which nothing did.

`JAXMIA_FAULTS=20 pytest tests/reliability/test_random_faults.py` lets twenty things happen.
"""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.reliability.conftest import Jobs, assert_same, chunks
from tests.reliability.worker import Moment

pytestmark = pytest.mark.slow

FAULTS = int(os.environ.get("JAXMIA_FAULTS", "6"))
LARGE: dict[str, Any] = {"shadow": {"count": 64, "epochs": 40}, "ensemble": {"width": 8}}
_EPOCHS = 2 * 40
"""Epochs of two chunks, within which each fault strikes."""
_PATIENCE = 20
"""Seconds after which a process that is starved of memory is ended."""
_DEATHS = (-signal.SIGKILL, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, 127)
"""Exit codes of what kills a process; 127 is glibc's where it has no memory for the variables of a thread."""
_YEAR = 365 * 86_400.0


def damage(cache: Path, rng: np.random.Generator) -> None:
    """Cuts short or overwrites a third of the compiled programs that are kept."""
    for path in sorted(path for path in cache.rglob("*") if path.is_file()):
        if rng.random() < 1 / 3:
            path.write_bytes(path.read_bytes()[: int(rng.integers(0, 100))] + rng.bytes(int(rng.integers(0, 100))))


def fault(name: str, rng: np.random.Generator, folder: Path) -> dict[str, Any]:
    """How a process is disturbed; sooner or later each is killed, or dies of what it lacks."""
    order: dict[str, Any] = {"moment": Moment("epoch", int(rng.integers(1, _EPOCHS)), signal.SIGKILL)}
    if name == "memory":
        order["limit"] = ("RLIMIT_AS", int(rng.integers(0, 2**22)))
    elif name == "disk":
        order["limit"] = ("RLIMIT_FSIZE", int(rng.integers(0, 4096)))
    elif name == "home":
        order |= (
            {"unset": ("HOME", "XDG_CACHE_HOME")} if rng.random() < 0.5 else {"environment": {"HOME": "/proc/none"}}
        )
    elif name == "cache":
        damage(folder / "cache", rng)
    elif name == "clock":
        order["clock"] = float(rng.choice([-10, 10])) * _YEAR
    return order


def test_whatever_happens_the_bits_are_the_same(jobs: Jobs, tmp_path: Path):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    code, said = jobs.run(tmp_path / "undisturbed", changes=LARGE, environment=cache)
    assert code == 0, said
    rng = np.random.default_rng(FAULTS)
    names = rng.permutation(np.resize(["kill", "memory", "disk", "home", "cache", "clock"], FAULTS)).tolist()
    out, ended = tmp_path / "run", 0
    undisturbed = chunks(tmp_path / "undisturbed")
    for name in names:
        order = fault(name, rng, tmp_path)
        order["environment"] = cache | order.get("environment", {})
        job = jobs.start(out, changes=LARGE, **order)
        try:
            code, said = job.end(_PATIENCE if name == "memory" else 120)
        except TimeoutError as error:
            # Threads that die for want of memory may leave others waiting; a user ends such a process.
            assert name == "memory"
            code, said = -signal.SIGABRT, str(error).splitlines()
        assert code in (*_DEATHS, 1, 0), (name, said)
        ended += code != 0
        print(f"{name}: exit code {code}, {len(chunks(out))} of 8 chunks stored")
        if code == 0:  # the fault did no harm, and the run has ended; the next one strikes another
            assert_same(out, undisturbed)
            out = out.with_name(f"{out.name}-again")
    assert ended >= FAULTS / 2, "most strike before the end"
    code, said = jobs.run(out, changes=LARGE, environment=cache)
    assert code == 0, said
    assert_same(out, undisturbed)
