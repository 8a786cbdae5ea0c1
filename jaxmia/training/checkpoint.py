"""Checkpoints of chunks in training: what was done is not done again, whenever the run is ended."""

import functools
import json
import logging
import shutil
import sys
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from jaxmia.config import parse_as
from jaxmia.errors import InputError
from jaxmia.files import write_text
from jaxmia.runs.store import describe_difference
from jaxmia.training.arrays import pick

logger = logging.getLogger(__name__)

_KEPT = 2
_ABOUT = "about.json"


@dataclass(frozen=True)
class Snapshot:
    """Where the training of some models stands.

    Attributes:
        step: Steps done.
        seconds: Time spent on them so far.
        arrays: The state and the training curve by name, axis 0 the model.
    """

    step: int
    seconds: float
    arrays: Mapping[str, np.ndarray]


class _About(BaseModel):
    """`about.json`: whose checkpoints are in its folder."""

    models: Annotated[tuple[Annotated[int, Field(ge=0, strict=True)], ...], Field(min_length=1)]
    cache_key: dict[str, Any]


@dataclass(frozen=True)
class _Begun:
    folder: Path
    models: tuple[int, ...]
    cache_key: Mapping[str, Any]

    def steps(self) -> list[Path]:
        """Whole checkpoints, the latest first; Orbax gives a checkpoint its name when all of it is written."""
        whole = (path for path in self.folder.iterdir() if path.name.isdecimal())
        return sorted(whole, key=lambda path: -int(path.name))


class Checkpoints:
    """The folder `checkpoints/` of a run: for each chunk in training a folder with its last two checkpoints.

    A checkpoint belongs to its models, not to the chunk's width: chunks of other widths pick their models out of it.

    Args:
        folder: Where.
        cache_key: What the models' scores depend on; a checkpoint that was asked for something else is refused.
        every: Seconds between checkpoints; 0 for none but the last, when the run is told to stop.
    """

    def __init__(self, folder: Path, cache_key: Mapping[str, Any], every: float) -> None:
        self.folder = Path(folder)
        self._cache_key = cache_key
        self._every = every

    def resumable(self, missing: Sequence[int]) -> list[list[int]]:
        """Which of the missing models have been begun together, the furthest first; each model once.

        Raises:
            InputError: A checkpoint was made by another configuration; the difference is named.
        """
        left = set(missing)
        groups = []
        for resumable in self._all():
            group = [model for model in resumable.models if model in left]
            if group:
                groups.append(group)
                left.difference_update(group)
        return groups

    def restore(self, models: Sequence[int]) -> Snapshot | None:
        """The furthest whole checkpoint that holds all of these models; None if there is none.

        A damaged one is set aside, with a line, and the one before it is taken.
        """
        for resumable in self._all():
            if not set(models) <= set(resumable.models):
                continue
            for path in resumable.steps():
                try:
                    return _load(path, resumable.models, models)
                except Exception as error:  # Orbax and TensorStore raise whatever they happen to trip over
                    aside = path.with_name(f"{path.name}.damaged")
                    shutil.rmtree(aside, ignore_errors=True)
                    path.rename(aside)
                    logger.warning(f"{path}: cannot be read ({_brief(error)}); set aside as {aside.name}")
        return None

    def writer(self, models: Sequence[int]) -> "CheckpointWriter":
        """What saves the checkpoints of a chunk."""
        folder = self.folder / f"{min(models):05d}-{max(models):05d}"
        return CheckpointWriter(folder, models, self._cache_key, self._every)

    def forget(self, stored: Collection[int]) -> None:
        """Removes the checkpoints of which every model is stored."""
        for resumable in self._all():
            if set(resumable.models) <= set(stored):
                shutil.rmtree(resumable.folder, ignore_errors=True)

    def _all(self) -> list[_Begun]:
        found = []
        for path in sorted(self.folder.glob(f"*/{_ABOUT}")):
            try:
                about = parse_as(_About, json.loads(path.read_text()), _ABOUT)
                resumable = _Begun(path.parent, about.models, about.cache_key)
                steps = resumable.steps()
            except FileNotFoundError:  # another process has stored these models and removed this
                continue
            except (OSError, ValueError, RecursionError, InputError) as error:
                raise InputError(f"{path}: cannot be read ({_brief(error)}); remove {path.parent}") from error
            difference = describe_difference({"cache_key": resumable.cache_key}, {"cache_key": self._cache_key})
            if difference:
                raise InputError(
                    f"{path.parent}: was made by another configuration: {difference}; use another --out or remove the "
                    f"folder {self.folder}"
                )
            if steps:
                found.append((-int(steps[0].name), resumable))
        return [resumable for _, resumable in sorted(found, key=lambda pair: (pair[0], pair[1].models))]


class CheckpointWriter:
    """Saves the checkpoints of one chunk in the background, the last two kept.

    A checkpoint that cannot be saved does not end the training: it is told in a line and tried again when the next is
    due.
    """

    def __init__(
        self,
        folder: Path,
        models: Sequence[int],
        cache_key: Mapping[str, Any],
        every: float,
    ) -> None:
        self._folder = folder
        self._models = list(models)
        self._cache_key = cache_key
        self._every = every
        self._last = time.monotonic()
        self._checkpointer: Any = None

    def due(self) -> bool:
        """Whether it is time for the next."""
        return 0 < self._every <= time.monotonic() - self._last

    def save(self, moment: Snapshot, *, wait: bool = False) -> bool:
        """Saves a checkpoint; returns once the arrays are copied, or, with `wait`, once they are on the disk.

        Returns:
            Whether, as far as is known, it worked.
        """
        try:
            checkpointer = self._open()
            if not any(known.step == moment.step for known in checkpointer.checkpoints):
                checkpointer.save_async(moment.step, _tree(moment))
            if wait:
                self._close()
        except Exception as error:  # of the file system, wrapped by Orbax in this or that
            logger.warning(f"{self._folder}: the checkpoint at step {moment.step} cannot be saved: {_brief(error)}")
            self._checkpointer = None
            return False
        finally:
            self._last = time.monotonic()
        return True

    def close(self) -> None:
        """Waits for the checkpoint that is being saved."""
        try:
            self._close()
        except Exception as error:
            logger.warning(f"{self._folder}: a checkpoint cannot be saved: {_brief(error)}")

    def _open(self) -> Any:
        if self._checkpointer is None:
            orbax = _orbax()
            training = orbax.training
            self._describe()
            self._checkpointer = training.Checkpointer(
                self._folder.absolute(),
                # Where a folder cannot be made in the background, threads wait for it for many minutes, and so would
                # the end of the process.
                context=orbax.Context(
                    async_options=orbax.options.AsyncOptions(create_directories_asynchronously=False)
                ),
                # The default drops a checkpoint without a word while another is being saved.
                save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=training.preservation_policies.LatestN(_KEPT),
                cleanup_tmp_directories=True,
            )
        return self._checkpointer

    def _describe(self) -> None:
        path = self._folder / _ABOUT
        about = json.dumps({"models": self._models, "cache_key": self._cache_key}, sort_keys=True)
        if self._folder.exists() and not (path.exists() and path.read_text() == about):
            shutil.rmtree(self._folder)  # of other models between the same first and last
        write_text(path, about)

    def _close(self) -> None:
        checkpointer, self._checkpointer = self._checkpointer, None
        if checkpointer is not None:
            checkpointer.close()


@functools.cache
def _orbax() -> Any:
    """Orbax, which takes seconds to import; a short training never needs it.

    Its own tracebacks are not shown: whatever fails is said in one line.
    """
    from orbax.checkpoint.experimental import v1

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    shown = sys.unraisablehook

    def show(error: "sys.UnraisableHookArgs") -> None:
        # When a checkpoint fails, callbacks of its other arrays find that Orbax has closed its event loop.
        if str(error.exc_value) != "Event loop is closed":
            shown(error)

    sys.unraisablehook = show
    return v1


def _tree(moment: Snapshot) -> dict[str, Any]:
    return {
        "arrays": dict(moment.arrays),
        "checksums": _checksums(moment.arrays),
        "seconds": np.array(moment.seconds),
    }


def _load(path: Path, models: Sequence[int], wanted: Sequence[int]) -> Snapshot:
    # Without a template nothing is cast on the way; who uses the arrays compares their types.
    tree = _orbax().load(str(path.absolute()))
    arrays = {name: np.asarray(array) for name, array in tree["arrays"].items()}
    if not np.array_equal(_checksums(arrays), tree["checksums"]):
        raise ValueError("a checksum differs")
    return Snapshot(int(path.name), float(tree["seconds"]), pick(arrays, models, wanted))


def _checksums(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """CRC-32 of each array in the order of names, uint32 `[array]`."""
    return np.array([zlib.crc32(_bytes(arrays[name])) for name in sorted(arrays)], np.uint32)


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _brief(error: BaseException) -> str:
    """The first line of what went wrong, of the operating system's own words where it has some."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
