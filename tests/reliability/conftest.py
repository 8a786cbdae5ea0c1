import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxmia.files import load_npz

ARRAYS = ("model", "mask", "phi", "accuracy", "accuracy_in", "curve")
Chunks = dict[str, dict[str, np.ndarray]]


def start(
    out: Path, stage: str = "none", number: int = 0, signal: int = 0, changes: dict | None = None, **environment: str
) -> subprocess.Popen:
    """A training in a process of its own, that ends itself at a moment; see `worker.py`."""
    command = [sys.executable, "-m", "tests.reliability.worker", out, stage, number, signal, json.dumps(changes or {})]
    return subprocess.Popen(
        [str(word) for word in command],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        cwd=Path(__file__).parents[2],
    )


def train(
    out: Path, stage: str = "none", number: int = 0, signal: int = 0, changes: dict | None = None, **environment: str
) -> tuple[int, list[str]]:
    """The same to its end: exit code, negative where a signal ended it, and what it said."""
    process = start(out, stage, number, signal, changes, **environment)
    _, said = process.communicate(timeout=120)
    return process.returncode, said.splitlines()


def chunks(out: Path) -> Chunks:
    """The arrays of each chunk, by file name."""
    return {path.name: load_npz(path) for path in sorted((out / "shadows").glob("*.npz"))}


def assert_same(found: Chunks, expected: Chunks) -> None:
    """Bit for bit, save for how long it took."""
    assert found.keys() == expected.keys()
    for name, chunk in expected.items():
        for array in ARRAYS:
            np.testing.assert_array_equal(found[name][array], chunk[array], err_msg=f"{name} {array}")


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Chunks:
    """Five models in three chunks, of a run that nobody interrupted."""
    out = tmp_path_factory.mktemp("uninterrupted")
    code, said = train(out)
    assert code == 0, said
    found = chunks(out)
    assert list(found) == ["00000-00001.npz", "00002-00003.npz", "00004-00004.npz"]
    return found
