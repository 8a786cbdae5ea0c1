"""Trains the shadows of a small pool as `jaxmia train` does, and may end itself at a given moment.

    python -m tests.reliability.worker OUT STAGE NUMBER SIGNAL [CONFIG]

STAGE is `none`, `epoch`, `query`, `write` (bytes are about to reach the disk) or `time` (NUMBER is in milliseconds
after the first epoch); at its NUMBER-th coming the process sends itself SIGNAL. CONFIG is JSON, over the default.
"""

import json
import os
import sys
import threading
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from jaxmia.cli import main
from jaxmia.commands import make
from jaxmia.config import parse_config
from jaxmia.pipeline import Pipeline, Shard
from jaxmia.pool import UNKNOWN, Pool
from jaxmia.training.shadows import Progress

CONFIG = {
    "shadow": {"architecture": "mlp", "width": 8, "count": 5, "epochs": 150, "batch_size": 8},
    "ensemble": {"width": 2, "conv": "unrolled", "devices": 1, "checkpoint_seconds": 0.1},
    "query": {"batch_size": 8},
    "seed": 5,
}


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
        return SimpleNamespace(classes=3)


class Moment:
    """Sends a signal to this process when the time has come."""

    def __init__(self, stage: str, number: int, signal: int) -> None:
        self._stage, self._left, self._signal = stage, number, signal

    def __call__(self, stage: str) -> None:
        if stage == "epoch" and self._stage == "time":
            self._stage = "over"
            threading.Timer(self._left / 1000, self._strike).start()
        if stage == self._stage:
            self._left -= 1
            if self._left == 0:
                self._strike()

    def _strike(self) -> None:
        os.kill(os.getpid(), self._signal)


def work(out: Path, moment: Moment, changes: dict[str, Any]) -> None:
    content = {name: {**CONFIG.get(name, {}), **changes.get(name, {})} for name in ("shadow", "ensemble", "query")}
    config = parse_config({**content, "seed": changes.get("seed", CONFIG["seed"])}, "worker")
    synchronise = os.fsync

    def fsync(descriptor: int) -> None:
        moment("write")
        synchronise(descriptor)

    os.fsync = fsync

    def look(progress: Progress) -> None:
        moment("epoch" if progress.stage == "training" else "query")

    pipeline = Small(config, out, lambda line: print(line, file=sys.stderr), lambda title: nullcontext(look))
    pipeline.begin()
    pipeline.train(Shard.parse(os.environ.get("SHARD", "0/1")))


if __name__ == "__main__":
    out, stage, number, signal, *rest = sys.argv[1:]
    moment = Moment(stage, int(number), int(signal))
    make.Train.__call__ = lambda self, overrides: work(self.out, moment, json.loads(rest[0]) if rest else {})
    main(["train", "--config", "unused", "--out", out])
