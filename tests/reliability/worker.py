"""Trains the shadows of a small pool as `jaxmia train` does, and may send itself a signal at a given moment."""

import faulthandler
import functools
import gc
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxmia.cli import display
from jaxmia.cli.main import main
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.pipeline import worker
from jaxmia.runs.progress import Progress
from tests.challenge import make_challenge

EPOCHS = 50
SECTIONS = {
    "shadow": {"architecture": "mlp", "width": 8, "known": 0.0, "count": 5, "epochs": EPOCHS, "batch_size": 8},
    "ensemble": {"width": 2, "conv": "unrolled", "devices": 1, "checkpoint_seconds": 0.03},
    "query": {"batch_size": 8},
}
SEED = 5


@dataclass(frozen=True)
class Moment:
    """When a process sends itself a signal.

    Attributes:
        stage: `none`, `epoch`, `query` (a step of it), `write` (bytes are about to reach the disk) or `time`.
        number: At which coming of it; of `time`, milliseconds after the first epoch.
        signal: What is sent.
    """

    stage: str = "none"
    number: int = 0
    signal: int = signal.SIGKILL


@dataclass(frozen=True)
class Order:
    """What a process is to do.

    Attributes:
        config: Configuration.
        out: Folder of the run.
        said: File that takes what it says.
        moment: When it sends itself a signal.
        environment: Variables.
        shard: As of `jaxmia train`.
        clock: Seconds by which its clock is wrong.
        unset: Variables that it does not have.
        limit: Instead of the signal, a resource of `resource` and its new limit; of `RLIMIT_AS` what it may take more.
    """

    config: Path
    out: Path
    said: Path
    moment: Moment = Moment()
    environment: dict[str, str] = field(default_factory=dict)
    shard: str = "0/1"
    clock: float = 0.0
    unset: tuple[str, ...] = ()
    limit: tuple[str, int] | None = None


def make_small_challenge(folder: Path) -> Path:
    """Writes 48 samples and a target; the path of a configuration that attacks it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 48).astype(np.int32)
    images = np.clip(rng.normal(60 + 60 * labels[:, None, None, None], 50, (48, 6, 6, 1)), 0, 255).astype(np.uint8)
    membership = np.where(np.arange(48) < 24, np.arange(48) % 2, UNKNOWN).astype(np.int8)
    return make_challenge(folder, Pool(images, labels, np.arange(48).astype(str), membership), **SECTIONS)


def write_config(challenge: Path, changes: dict[str, Any], path: Path) -> Path:
    """Writes the configuration of the challenge with `changes` to its sections and its seed."""
    content = {**json.loads(challenge.read_text()), "seed": SEED}
    for name, change in changes.items():
        content[name] = {**content[name], **change} if isinstance(change, dict) else change
    path.write_text(json.dumps(content))
    return path


class _Countdown:
    """Sends a signal to this process, or takes something from it, when the time has come."""

    def __init__(self, moment: Moment, limit: tuple[str, int] | None = None) -> None:
        self._stage, self._left, self._signal = moment.stage, moment.number, moment.signal
        self._limit = limit
        self._timer: threading.Timer | None = None

    def __call__(self, stage: str) -> None:
        if stage == "epoch" and self._stage == "time":
            self._stage = "over"
            self._timer = threading.Timer(self._left / 1000, self._strike)
            self._timer.start()
        if stage == self._stage:
            self._left -= 1
            if self._left == 0:
                self._strike()

    def cancel(self) -> None:
        """Sends nothing any more; else the end of the process would wait for it."""
        if self._timer:
            self._timer.cancel()

    def _strike(self) -> None:
        if self._limit is None:
            os.kill(os.getpid(), self._signal)
            return
        name, value = self._limit
        if name == "RLIMIT_AS":
            value += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(getattr(resource, name), (value, value))


def run(order: Order) -> None:
    """Does it, in a process of its own, and exits as `jaxmia train` does."""
    gc.freeze()  # looking through what was imported before the fork would copy its memory
    descriptor = os.open(order.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    faulthandler.enable(sys.stderr)
    os.environ.update(order.environment)
    right = time.time
    time.time = lambda: right() + order.clock
    for name in order.unset:
        os.environ.pop(name, None)
    countdown = _Countdown(order.moment, order.limit)
    synchronise = os.fsync

    def fsync(descriptor: int) -> None:
        countdown("write")
        synchronise(descriptor)

    def on_progress(progress: Progress) -> None:
        countdown("epoch" if progress.stage == "training" else "query")

    def progress_bar(title: str) -> AbstractContextManager[Callable[[Progress], None]]:
        del title
        return nullcontext(on_progress)

    os.fsync = fsync
    display.progress_bar = progress_bar
    worker.Job = functools.partial(worker.Job, patience=2.0)
    try:
        main(["train", "--config", str(order.config), "--out", str(order.out), "--shard", order.shard])
    finally:
        countdown.cancel()
