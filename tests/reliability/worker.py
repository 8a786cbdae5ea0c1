"""Trains the shadows of a small pool as `jaxmia train` does, and may send itself a signal at a given moment."""

import faulthandler
import functools
import os
import signal
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from jaxmia.cli import display
from jaxmia.cli.commands import run as make
from jaxmia.cli.main import main
from jaxmia.config import Config, parse_config
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.pipeline import run as pipeline_run
from jaxmia.pipeline import worker as job
from jaxmia.pipeline.stages import Pipeline
from jaxmia.runs.progress import Progress

CONFIG = {
    "shadow": {"architecture": "mlp", "width": 8, "count": 5, "epochs": 150, "batch_size": 8},
    "ensemble": {"width": 2, "conv": "unrolled", "devices": 1, "checkpoint_seconds": 0.1},
    "query": {"batch_size": 8},
    "seed": 5,
}


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
        out: Folder of the run.
        said: File that takes what it says.
        moment: When it sends itself a signal.
        changes: Sections of the configuration, over the default.
        environment: Variables.
        shard: As of `jaxmia train`.
        clock: Seconds by which its clock is wrong.
    """

    out: Path
    said: Path
    moment: Moment = Moment()
    changes: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    shard: str = "0/1"
    clock: float = 0.0


class Small(Pipeline):
    """A pipeline whose pool is made up, and whose target is not needed."""

    @cached_property
    def pool(self) -> Pool:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 48).astype(np.int32)
        images = np.clip(rng.normal(60 + 60 * labels[:, None, None, None], 50, (48, 6, 6, 1)), 0, 255).astype(np.uint8)
        pool = Pool(images, labels, np.arange(48).astype(str), np.full(48, UNKNOWN, np.int8))
        pool.save(self.out / "pool.npz")
        return pool

    @cached_property
    def target(self) -> Any:
        return SimpleNamespace(classes=3, preprocessing=Preprocessing())


class _Countdown:
    """Sends a signal to this process when the time has come."""

    def __init__(self, moment: Moment) -> None:
        self._stage, self._left, self._signal = moment.stage, moment.number, moment.signal
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
        os.kill(os.getpid(), self._signal)


def run(order: Order) -> None:
    """Does it, in a process of its own, and exits as `jaxmia train` does."""
    descriptor = os.open(order.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    faulthandler.enable(sys.stderr)
    os.environ.update(order.environment)
    right = time.time
    time.time = lambda: right() + order.clock
    countdown = _Countdown(order.moment)
    synchronise = os.fsync

    def fsync(descriptor: int) -> None:
        countdown("write")
        synchronise(descriptor)

    def on_progress(progress: Progress) -> None:
        countdown("epoch" if progress.stage == "training" else "query")

    os.fsync = fsync
    job.Job = functools.partial(job.Job, patience=2.0)
    make._configure = lambda path, overrides: _config(order.changes)
    pipeline_run.Pipeline = Small
    display.progress_bar = lambda title: nullcontext(on_progress)
    try:
        main(["train", "--config", "unused", "--out", str(order.out), "--shard", order.shard])
    finally:
        countdown.cancel()


def _config(changes: dict[str, Any]) -> Config:
    sections = {name: {**CONFIG.get(name, {}), **changes.get(name, {})} for name in ("shadow", "ensemble", "query")}
    return parse_config({**sections, "seed": changes.get("seed", CONFIG["seed"])}, "worker")
