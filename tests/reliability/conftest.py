import itertools
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxmia.files import load_npz
from tests.reliability.worker import Order, make_small_challenge, run, write_config

ARRAYS = ("model", "mask", "phi", "accuracy", "accuracy_in", "curve")
Chunks = dict[str, dict[str, np.ndarray]]

_FORKS = multiprocessing.get_context("forkserver")
_IMPORTS = (
    "tests.reliability.worker",
    "jaxmia.pipeline.run",
    "jaxmia.pipeline.worker",
    "jaxmia.training.weights",
    "orbax.checkpoint.experimental.v1",
)


class Job:
    """A training in a process of its own."""

    def __init__(self, order: Order) -> None:
        self._said = order.said
        self._process = _FORKS.Process(target=run, args=(order,))
        self._process.start()

    def end(self, patience: float = 120) -> tuple[int, list[str]]:
        """Waits for the end, so many seconds: exit code, negative where a signal ended it, and what it said.

        Raises:
            TimeoutError: It does not end; where it hangs is told.
        """
        self._process.join(patience)
        if self._process.exitcode is None:
            self.signal(signal.SIGABRT)  # it says where each of its threads is
            self._process.join()
            raise TimeoutError(self._said.read_text())
        assert self._process.exitcode is not None
        return self._process.exitcode, self._said.read_text().splitlines()

    def wait_until_stopped(self) -> None:
        """Waits until it has sent itself SIGSTOP.

        Raises:
            RuntimeError: It has ended instead.
        """
        while self._process.exitcode is None:
            if Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return
            time.sleep(0.01)
        raise RuntimeError(self._said.read_text())

    def signal(self, number: int) -> None:
        """Sends it a signal; SIGCONT lets a stopped one go on."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)


class Jobs:
    """Starts trainings; all that they import is imported once, and what they compile is compiled once."""

    def __init__(self, folder: Path) -> None:
        self._challenge = make_small_challenge(folder / "challenge")
        self._orders = (folder / f"{number}.txt" for number in itertools.count())

    def start(self, out: Path, changes: dict[str, Any] | None = None, **order: Any) -> Job:
        """Begins one; `changes` to the configuration, `order` as the fields of `Order`."""
        said = next(self._orders)
        config = write_config(self._challenge, changes or {}, said.with_suffix(".yaml"))
        return Job(Order(config, out, said, **order))

    def run(self, out: Path, **order: Any) -> tuple[int, list[str]]:
        """The same to its end."""
        return self.start(out, **order).end()


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    folder = tmp_path_factory.mktemp("jobs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.chdir(Path(__file__).parents[2])
        _FORKS.set_forkserver_preload(list(_IMPORTS))
        multiprocessing.forkserver.ensure_running()
    return Jobs(folder)


def chunks(out: Path) -> Chunks:
    """The arrays of each chunk, by file name."""
    return {path.name: load_npz(path) for path in sorted((out / "shadows").glob("*.npz"))}


def assert_same(out: Path, expected: Chunks) -> None:
    """Bit for bit, save for how long it took; and nothing else is left behind."""
    found = chunks(out)
    assert found.keys() == expected.keys()
    for name, chunk in expected.items():
        for array in ARRAYS:
            np.testing.assert_array_equal(found[name][array], chunk[array], err_msg=f"{name} {array}")
    assert_tidy(out)


def assert_tidy(out: Path) -> None:
    """A run has left nothing unfinished behind."""
    assert list((out / "checkpoints").glob("*")) == []
    assert list((out / "claims").glob("*.json")) == []
    assert list(out.rglob(".*.tmp")) == []


@pytest.fixture(scope="session")
def uninterrupted(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Chunks:
    """Five models in three chunks, of a run that nobody interrupted."""
    out = tmp_path_factory.mktemp("uninterrupted")
    code, said = jobs.run(out)
    assert code == 0, said
    found = chunks(out)
    assert list(found) == ["00000-00001.npz", "00002-00003.npz", "00004-00004.npz"]
    return found
