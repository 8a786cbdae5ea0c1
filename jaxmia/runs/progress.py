"""Progress and speed of a chunk of models."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """Progress of a chunk at one moment.

    Attributes:
        stage: `training` or `querying`.
        models: Numbers of the chunk's models; empty for the target.
        done: Number of images trained on or queried so far, over all models.
        total: Number of images to train on or to query.
        epoch: Number of completed epochs.
        epochs: Total number of epochs.
        loss: Mean training loss in nats.
        accuracy_in: Accuracy on probed IN samples, in eval mode.
        accuracy_out: Accuracy on probed OUT samples.
    """

    stage: str
    models: Sequence[int]
    done: int
    total: int
    epoch: float
    epochs: int
    loss: float = float("nan")
    accuracy_in: float = float("nan")
    accuracy_out: float = float("nan")


_LEAST_SECONDS = 1.0
"""Shortest time, in seconds, over which a speed is computed, since reports of progress are infrequent."""


class ThroughputMeter:
    """Adds the speed to reports of progress, in images/s since the stage began in this process."""

    def __init__(self) -> None:
        self._stage: object = None
        self._start = (0.0, 0)

    def __call__(self, progress: "Progress") -> dict[str, Any]:
        """Converts a report to figures for the log and for progress bars."""
        stage, now = (progress.stage, tuple(progress.models)), time.monotonic()
        if stage != self._stage:
            # The first report of a stage includes compilation; the speed is measured from there.
            self._stage, self._start = stage, (now, progress.done)
        seconds, images = now - self._start[0], progress.done - self._start[1]
        return {
            "stage": progress.stage,
            "epoch": progress.epoch,
            "epochs": progress.epochs,
            "loss": progress.loss,
            "accuracy_in": progress.accuracy_in,
            "accuracy_out": progress.accuracy_out,
            "done": progress.done,
            "total": progress.total,
            "images_per_second": images / seconds if images and seconds >= _LEAST_SECONDS else None,
        }
