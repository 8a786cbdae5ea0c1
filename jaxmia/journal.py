"""`log.jsonl`: what happened in a run, one JSON object a line, of all its jobs."""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxmia.training.shadows import Progress

_LEAST_SECONDS = 1.0
"""A speed over less says how coarse the reports are."""


class Journal:
    """Appends lines to a log; a log that cannot be written is said once and holds nothing up.

    Args:
        path: The file.
        say: Prints one line.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path = Path(path)
        self._say = say
        self._works = True

    def write(self, event: str, fields: Mapping[str, Any]) -> None:
        """Appends one line, with time (UTC), host and process; what is not a number becomes null."""
        who = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node(), "pid": os.getpid()}
        line = json.dumps({**who, "event": event, **_plain(fields)}, allow_nan=False) + "\n"
        try:
            # One write to a file opened for appending: lines of several jobs do not mix on a local file system.
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(file, line.encode())
            finally:
                os.close(file)
        except OSError as error:
            if self._works:
                self._say(f"{self._path}: cannot be written: {error.strerror}; nothing else depends on it")
            self._works = False


class Meter:
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


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in fields.items()
    }
