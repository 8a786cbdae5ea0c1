"""How far a chunk of models is, and at what speed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """What is known of a chunk at one moment.

    Attributes:
        stage: `training` or `querying`.
        models: Numbers of the chunk's models.
        done: Images trained on, or queried, over all models.
        total: Images to train on, or to query.
        epoch: Epochs done, of `epochs`.
        epochs: Epochs to do.
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
"""A speed over less says how coarse the reports are."""


class ThroughputMeter:
    """Turns progress into figures with a speed, images/s since the stage began in this process, from a second on."""

    def __init__(self) -> None:
        self._stage: object = None
        self._start = (0.0, 0)

    def __call__(self, progress: "Progress") -> dict[str, Any]:
        """Figures of a moment, for the log and for who looks on."""
        stage, now = (progress.stage, tuple(progress.models)), time.monotonic()
        if stage != self._stage:
            # The first report of a stage includes compilation; speed counts from there.
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
