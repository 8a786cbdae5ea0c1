"""Checkpoints of chunks in training, from which an interrupted run resumes."""

import functools
import json
import logging
import math
import shutil
import sys
import time
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from pydantic import BaseModel, Field

from jaxmia.errors import InputError, one_line
from jaxmia.files import most_unpacked, read_bounded, write_text
from jaxmia.runs.store import describe_difference
from jaxmia.training.arrays import pick
from jaxmia.validation import parse_as

logger = logging.getLogger(__name__)

_KEPT = 2
_ABOUT = "about.json"
_MAX_ABOUT_BYTES = 2**20
_REMOVALS, _SECONDS_BETWEEN = 5, 0.1


@dataclass(frozen=True)
class Snapshot:
    """Snapshot of the training of some models.

    Attributes:
        step: Number of completed steps.
        seconds: Training time so far, in seconds.
        arrays: State and training curve as named arrays, with a leading model axis.
    """

    step: int
    seconds: float
    arrays: Mapping[str, np.ndarray]


class _About(BaseModel):
    """`about.json`: the models and the configuration of the checkpoints in its folder."""

    models: Annotated[tuple[Annotated[int, Field(ge=0, strict=True)], ...], Field(min_length=1)]
    cache_key: dict[str, Any]


@dataclass(frozen=True)
class _Group:
    """Models with common checkpoints."""

    folder: Path
    models: tuple[int, ...]
    cache_key: Mapping[str, Any]

    def steps(self) -> list[Path]:
        """Complete checkpoints, the latest first; Orbax names a checkpoint only once it is completely written."""
        whole = (path for path in self.folder.iterdir() if path.name.isdecimal())
        return sorted(whole, key=lambda path: -int(path.name))


class Checkpoints:
    """The directory `checkpoints/` of a run, with the last two checkpoints of each chunk in training.

    A checkpoint belongs to its models, not to a chunk: chunks of other widths pick their models from it.

    Args:
        folder: Directory of the checkpoints.
        cache_key: Everything that the models' scores depend on; checkpoints with another key are rejected.
        every: Seconds between checkpoints; 0 saves a checkpoint only when the run is stopped.
    """

    def __init__(self, folder: Path, cache_key: Mapping[str, Any], every: float) -> None:
        self.folder = Path(folder)
        self._cache_key = cache_key
        self._every = every

    def resumable(self, missing: Sequence[int]) -> list[list[int]]:
        """Groups of missing models that share a checkpoint, the most advanced first; each model occurs once.

        Raises:
            InputError: A checkpoint was made with another configuration; the message names the difference.
        """
        left = set(missing)
        groups = []
        for group in self._all():
            models = [model for model in group.models if model in left]
            if models and group.steps():
                groups.append(models)
                left.difference_update(models)
        return groups

    def restore(self, models: Sequence[int]) -> Snapshot | None:
        """Loads the most advanced complete checkpoint that contains all of these models; None if there is none.

        A damaged checkpoint is set aside with a warning, and the one before it is used.
        """
        for group in self._all():
            if not set(models) <= set(group.models):
                continue
            for path in group.steps():
                try:
                    return _load(path, group.models, models)
                except Exception as error:  # Orbax and TensorStore raise many kinds of exceptions
                    aside = path.with_name(f"{path.name}.damaged")
                    shutil.rmtree(aside, ignore_errors=True)
                    path.rename(aside)
                    logger.warning(f"{path}: cannot be read ({_brief(error)}); set aside as {aside.name}")
        return None

    def writer(self, models: Sequence[int]) -> "CheckpointWriter":
        """Creates the writer of a chunk's checkpoints."""
        return CheckpointWriter(self._folder_of(models), models, self._cache_key, self._every)

    def forget(self, stored: Collection[int]) -> None:
        """Removes the checkpoints all of whose models are stored."""
        for group in self._all():
            if set(group.models) <= set(stored):
                _remove(group.folder)

    def remove_abandoned(self, in_training: Iterable[Sequence[int]]) -> None:
        """Removes folders that do not say whose checkpoints they hold, so that nothing can resume from them.

        Threads of a failed save create one anew if they end after it was removed, and a killed process may leave one.

        Args:
            in_training: Models that other processes train together, whose folders they may just be creating.
        """
        created = {self._folder_of(models) for models in in_training}
        for folder in self.folder.glob("*"):
            if folder not in created and not (folder / _ABOUT).exists():
                _remove(folder)

    def _folder_of(self, models: Sequence[int]) -> Path:
        return self.folder / f"{min(models):05d}-{max(models):05d}"

    def _all(self) -> list[_Group]:
        found = []
        for path in sorted(self.folder.glob(f"*/{_ABOUT}")):
            try:
                about = parse_as(_About, json.loads(read_bounded(path, _MAX_ABOUT_BYTES)), _ABOUT)
                group = _Group(path.parent, about.models, about.cache_key)
                steps = group.steps()
            except FileNotFoundError:  # another process has stored these models and removed their checkpoint
                continue
            except (OSError, ValueError, RecursionError, InputError) as error:
                raise InputError(f"{path}: cannot be read ({_brief(error)}); remove {path.parent}") from error
            difference = describe_difference({"cache_key": group.cache_key}, {"cache_key": self._cache_key})
            if difference:
                raise InputError(
                    f"{path.parent}: was created with another configuration: {difference}; use another --out or remove "
                    f"{self.folder}"
                )
            found.append((-int(steps[0].name) if steps else 0, group))
        return [group for _, group in sorted(found, key=lambda pair: (pair[0], pair[1].models))]


def _remove(folder: Path) -> None:
    """Removes a folder; threads of a failed save may still write there for a moment."""
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_SECONDS_BETWEEN)


class CheckpointWriter:
    """Saves the checkpoints of one chunk in the background and keeps the last two.

    A checkpoint that cannot be saved does not end the training: it is logged as a warning, and the next one is saved
    when it is due.
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
        """Whether the next checkpoint is due."""
        return 0 < self._every <= time.monotonic() - self._last

    def save(self, moment: Snapshot, *, wait: bool = False) -> bool:
        """Saves a checkpoint; returns once the arrays are copied or, with `wait`, once they are on disk.

        Returns:
            Whether the checkpoint was saved, as far as is known when this returns.
        """
        try:
            checkpointer = self._open()
            if not any(known.step == moment.step for known in checkpointer.checkpoints):
                checkpointer.save_async(moment.step, _tree(moment))
            if wait:
                self._close()
        except Exception as error:  # file system errors, which Orbax wraps in various exceptions
            logger.warning(f"{self._folder}: the checkpoint at step {moment.step} cannot be saved: {_brief(error)}")
            self._checkpointer = None
            return False
        finally:
            self._last = time.monotonic()
        return True

    def close(self) -> None:
        """Waits until the checkpoint being saved is on disk."""
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
                # If a directory cannot be created in the background, threads wait for it for many minutes and delay
                # the end of the process.
                context=orbax.Context(
                    async_options=orbax.options.AsyncOptions(create_directories_asynchronously=False)
                ),
                # The default silently drops a checkpoint while another is being saved.
                save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=training.preservation_policies.LatestN(_KEPT),
                cleanup_tmp_directories=True,
            )
        return self._checkpointer

    def _describe(self) -> None:
        path = self._folder / _ABOUT
        about = json.dumps({"models": self._models, "cache_key": self._cache_key}, sort_keys=True)
        if self._folder.exists() and not (path.exists() and path.read_text() == about):
            shutil.rmtree(self._folder)  # of other models with the same first and last number
        write_text(path, about)

    def _close(self) -> None:
        checkpointer, self._checkpointer = self._checkpointer, None
        if checkpointer is not None:
            checkpointer.close()


@functools.cache
def _orbax() -> Any:
    """Imports Orbax on first use, since the import takes seconds and a short training never needs it.

    Its own tracebacks are suppressed: failures are logged in one line instead.
    """
    from orbax.checkpoint.experimental import v1

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    shown = sys.unraisablehook

    def show(error: "sys.UnraisableHookArgs") -> None:
        # When a checkpoint fails, the callbacks of its other arrays find Orbax's event loop closed.
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
    # Loaded without a template, so that nothing is cast; `tree_of` compares the dtypes later.
    _refuse_bloated(path)
    tree = _orbax().load(str(path.absolute()))
    arrays = {name: np.asarray(array) for name, array in tree["arrays"].items()}
    if not np.array_equal(_checksums(arrays), tree["checksums"]):
        raise ValueError("a checksum differs")
    return Snapshot(int(path.name), float(tree["seconds"]), pick(arrays, models, wanted))


def _refuse_bloated(path: Path) -> None:
    """Refuses a checkpoint whose arrays would take far more memory than its files hold; nothing is loaded."""
    held = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_symlink() and file.is_file())
    arrays = jax.tree.leaves(_orbax().metadata(str(path.absolute())).metadata)
    unpacked = sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays)
    if unpacked > most_unpacked(held):
        raise ValueError(f"its arrays unpack to {unpacked} bytes, allowed for {held} bytes are {most_unpacked(held)}")


def _checksums(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Computes the CRC-32 of each array in the order of their names, uint32 `[array]`."""
    return np.array([zlib.crc32(_bytes(arrays[name])) for name in sorted(arrays)], np.uint32)


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _brief(error: BaseException) -> str:
    """The operating system's own message, if it caused an error; otherwise the error in one line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return one_line(error)
