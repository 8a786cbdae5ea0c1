"""The store of the shadow models' margins, with one file per chunk, written atomically."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxmia.errors import DamagedFile, InputError, UnreadableFile
from jaxmia.files import load_npz, save_npz

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chunk:
    """Shadow models that were trained together, with their margins on every sample; one file holds one chunk.

    Attributes:
        model: Number that identifies each model, from 0, int `[model]`.
        mask: Whether each model was trained on each sample, bool `[model, sample]`.
        phi: Logit margins in nats, float32 `[model, view, sample]`.
        accuracy: Accuracy on OUT samples, float32 `[model]`.
        accuracy_in: Accuracy on IN samples, float32 `[model]`.
        extra: Further arrays with a leading model axis, such as training curves.
        metadata: Provenance as plain JSON: recipe, data, versions, device.
        diverged: Numbers of the chunk's models whose margins are not finite, which are left out.
        free: Whether each sample's membership was drawn for each model, bool `[sample]`; None if all were.
        fold: Fold of each sample in an informed audit, int `[sample]`; None for other models.
    """

    model: np.ndarray
    mask: np.ndarray
    phi: np.ndarray
    accuracy: np.ndarray
    accuracy_in: np.ndarray
    extra: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]
    diverged: tuple[int, ...] = ()
    free: np.ndarray | None = None
    fold: np.ndarray | None = None

    def healthy(self) -> "Chunk":
        """Returns the chunk without the models that diverged, which are listed in `diverged` instead."""
        finite = (np.abs(self.phi) <= LARGEST_MARGIN).all((1, 2))
        if finite.all():
            return self
        return replace(
            self,
            diverged=(*self.diverged, *self.model[~finite].tolist()),
            extra={name: array[finite] for name, array in self.extra.items()},
            **{name: getattr(self, name)[finite] for name in ("model", "mask", "phi", "accuracy", "accuracy_in")},
        )

    def take(self, samples: np.ndarray) -> "Chunk":
        """Returns the same models on the chosen samples, bool or int `[sample]`."""
        free, fold = (None if of is None else of[samples] for of in (self.free, self.fold))
        return replace(self, mask=self.mask[:, samples], phi=self.phi[:, :, samples], free=free, fold=fold)


class Entry(NamedTuple):
    """A chunk file without its margins.

    Attributes:
        path: Path of the file.
        models: Numbers of its models.
        metadata: Provenance of the chunk.
        diverged: Numbers of models that are left out.
    """

    path: Path
    models: tuple[int, ...]
    metadata: Mapping[str, Any]
    diverged: tuple[int, ...] = ()


LARGEST_MARGIN = 1e30
"""Largest margin in nats: far above any model's, even a diverged one's, and too small to overflow in an attack."""

ALL_DIVERGED = "all shadow models diverged; lower shadow.learning_rate and use another --out"

_DIGESTS = {
    "pool": "the samples",
    "trained_on": "the samples trained on",
    "told": "the memberships that are known",
    "chance": "the chances of members",
}
"""Descriptions of those entries of a cache key that are digests, whose values would mean nothing to a reader."""

_REQUIRED = ("model", "mask", "phi")
_LARGEST_NUMBER = 1e18
_MAX_METADATA_BYTES = 4 * 2**20


class ScoreStore:
    """The folder `shadows/` of a run, with one file per chunk."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def paths(self) -> list[Path]:
        """Paths of the chunk files, sorted by name."""
        return sorted(self.folder.glob("*.npz"))

    def write(self, chunk: Chunk) -> Path:
        """Stores a chunk in a file named by its first and last model; returns the path."""
        trained = [*chunk.model.tolist(), *chunk.diverged]
        path = self.folder / f"{min(trained):05d}-{max(trained):05d}.npz"
        arrays = {
            "model": chunk.model.astype(np.int64),
            "mask": chunk.mask.astype(bool),
            "phi": chunk.phi.astype(np.float32),
            "accuracy": chunk.accuracy.astype(np.float32),
            "accuracy_in": chunk.accuracy_in.astype(np.float32),
            **chunk.extra,
            **({"diverged": np.array(chunk.diverged, np.int64)} if chunk.diverged else {}),
            **({"free": chunk.free} if chunk.free is not None else {}),
            **({"fold": chunk.fold} if chunk.fold is not None else {}),
            "metadata": np.array(json.dumps(chunk.metadata)),
        }
        save_npz(path, arrays)
        return path

    def replace(self, chunk: Chunk) -> None:
        """Stores a chunk in place of all that are there."""
        written = self.write(chunk)
        for path in self.paths():
            if path != written:
                path.unlink()

    def index(self) -> list[Entry]:
        """Lists the readable chunks by file name; fast, since margins are neither read nor checked."""
        entries = (_peek(path) for path in self.paths())
        return [entry for entry in entries if entry]

    def models(self) -> set[int]:
        """Numbers of the stored models, according to `index`."""
        return {model for entry in self.index() for model in entry.models}

    def diverged(self) -> set[int]:
        """Numbers of the trained models that are left out because they diverged."""
        return {model for entry in self.index() for model in entry.diverged} - self.models()

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts the IN and the OUT models of each sample whose membership is not fixed, int `[sample]`.

        Reads only masks. Skips files that cannot be read and those of another pool than the first.
        """
        inside = outside = np.zeros(0, np.int64)
        seen: set[int] = set()
        for entry in self.index():
            mask = _peek_mask(entry)
            if mask is None or (seen and mask.shape[1] != len(inside)):
                continue
            mask = mask[[model not in seen for model in entry.models]]
            own = mask.sum(0)
            inside, outside = (own, len(mask) - own) if not seen else (inside + own, outside + len(mask) - own)
            seen.update(entry.models)
        return inside, outside

    def chunks(self) -> Iterator[tuple[Path, Chunk]]:
        """Reads and checks each chunk; a damaged file is set aside as `*.damaged` with a warning.

        Raises:
            UnreadableFile: A file cannot be read for another reason than damage, such as permission.
        """
        for path in self.paths():
            try:
                yield path, read_chunk(path)
            except DamagedFile as error:
                aside = path.with_name(f"{path.name}.damaged")
                path.replace(aside)
                logger.warning(f"{error}; set aside as {aside.name}, its models are trained again")

    def read(self) -> Chunk:
        """Joins all chunks into one, sorted by model number.

        A model that two jobs trained counts once.

        Raises:
            InputError: There is no chunk, one is damaged or inconsistent with the others, or a model occurs twice with
                different masks.
        """
        paths = self.paths()
        if not paths:
            raise InputError(f"{self.folder}: contains no trained shadow models (*.npz); `jaxmia train` trains them")
        chunks = [read_chunk(path) for path in paths]
        if not any(chunk.model.size for chunk in chunks):
            raise InputError(f"{self.folder}: {ALL_DIVERGED}")
        for path, chunk in zip(paths[1:], chunks[1:], strict=True):
            _refuse_misfit(paths[0], chunks[0], path, chunk)
        model = np.concatenate([chunk.model for chunk in chunks])
        mask = np.concatenate([chunk.mask for chunk in chunks])
        order = np.argsort(model, kind="stable")
        again = np.flatnonzero(np.diff(model[order]) == 0) + 1
        for one, other in zip(order[again - 1], order[again], strict=True):
            if not np.array_equal(mask[one], mask[other]):
                raise InputError(f"{self.folder}: model {model[one]} is in more than one file; remove one of them")
        order = np.delete(order, again)

        def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
            return np.concatenate(parts)[order]

        shared = set.intersection(*(set(chunk.extra) for chunk in chunks))
        extra = {
            name: joined([chunk.extra[name] for chunk in chunks])
            for name in sorted(shared)
            if len({chunk.extra[name].shape[1:] for chunk in chunks}) == 1
        }
        return Chunk(
            model=model[order],
            mask=mask[order],
            phi=joined([chunk.phi for chunk in chunks]),
            accuracy=joined([chunk.accuracy for chunk in chunks]),
            accuracy_in=joined([chunk.accuracy_in for chunk in chunks]),
            extra=extra,
            metadata=chunks[0].metadata,
            diverged=tuple(sorted({number for chunk in chunks for number in chunk.diverged} - set(model.tolist()))),
            free=chunks[0].free,
            fold=chunks[0].fold,
        )


def _peek(path: Path) -> Entry | None:
    """Reads a chunk file without its margins; None if it is damaged or disappears meanwhile."""
    try:
        arrays = load_npz(path, required=("model",), only=("model", "diverged", "metadata"))
        metadata, model = metadata_of(path, arrays), _numbers(path, "model", arrays["model"])
        return Entry(path, tuple(model.tolist()), metadata, _diverged_of(path, arrays))
    except UnreadableFile:
        return None


def _peek_mask(entry: Entry) -> np.ndarray | None:
    """Reads the masks of a chunk on the samples of free membership."""
    try:
        arrays = load_npz(entry.path, required=("mask",), only=("mask", "free"))
        mask, free = arrays["mask"], arrays.get("free")
        _check_mask(entry.path, mask, len(entry.models))
        _check_samples(entry.path, mask, free, None)
    except UnreadableFile:
        return None
    return mask if free is None else mask[:, free]


def read_chunk(path: Path) -> Chunk:
    """Reads and checks a chunk file from any source.

    Raises:
        UnreadableFile: It is missing, or cannot be read for another reason than its content, such as permission.
        DamagedFile: It is damaged, or a field has an invalid shape, type or value.
    """
    arrays = load_npz(path, _REQUIRED)
    model, mask, phi = (arrays.pop(name) for name in _REQUIRED)
    diverged = _diverged_of(path, arrays)
    nothing = np.full(len(model) if model.ndim else 0, np.nan, np.float32)
    accuracy, accuracy_in = (arrays.pop(name, nothing) for name in ("accuracy", "accuracy_in"))
    free, fold = arrays.pop("free", None), arrays.pop("fold", None)
    one = (len(nothing),)
    _check(path, "model", model, "iu", "integers [model]", model.ndim == 1 and model.size + len(diverged) > 0)
    _check_mask(path, mask, len(nothing))
    _check_samples(path, mask, free, fold)
    fits = phi.ndim == 3 and (*phi.shape[:1], *phi.shape[2:]) == mask.shape and phi.shape[1] > 0
    _check(path, "phi", phi, "f", "floats [model, view, sample], models and samples as in mask", fits)
    for name, shares in (("accuracy", accuracy), ("accuracy_in", accuracy_in)):
        _check(path, name, shares, "f", "floats [model]", shares.shape == one)
        if (strange := shares[~((shares >= 0) & (shares <= 1) | np.isnan(shares))]).size:
            raise DamagedFile(f"{path}: {name}: {strange[0]:g} is not between 0 and 1")
    numbers, counts = np.unique(_numbers(path, "model", model), return_counts=True)
    if counts.max(initial=0) > 1:
        raise DamagedFile(f"{path}: model: {numbers[counts > 1][0]} occurs more than once")
    if not np.isfinite(phi).all():
        where = np.argwhere(~np.isfinite(phi))[0]
        raise DamagedFile(f"{path}: phi of model {model[where[0]]} at sample {where[2]} is not finite")
    if max(float(phi.max(initial=0)), -float(phi.min(initial=0))) > LARGEST_MARGIN:
        where = np.unravel_index(np.abs(phi).argmax(), phi.shape)
        raise DamagedFile(
            f"{path}: phi of model {model[where[0]]} at sample {where[2]} is {phi[where]:g}, expected a logit margin "
            f"of at most {LARGEST_MARGIN:g} in size"
        )
    return Chunk(
        model=model,
        mask=mask,
        phi=phi,
        accuracy=accuracy,
        accuracy_in=accuracy_in,
        metadata=metadata_of(path, arrays),
        extra={name: value for name, value in arrays.items() if value.shape[:1] == one and _are_figures(value)},
        diverged=diverged,
        free=free,
        fold=fold,
    )


def _check_mask(path: Path, mask: np.ndarray, models: int) -> None:
    fits = mask.ndim == 2 and len(mask) == models
    _check(path, "mask", mask, "b", "bool [model, sample], as many models", fits)


def _check_samples(path: Path, mask: np.ndarray, free: np.ndarray | None, fold: np.ndarray | None) -> None:
    """Checks the optional arrays with one entry for each sample."""
    of_mask = mask.shape[1:]
    if free is not None:
        fits = free.shape == of_mask and bool(free.any())
        _check(path, "free", free, "b", "bool [sample], samples as in mask, at least one true", fits)
    if fold is not None:
        _check(path, "fold", fold, "iu", "integers [sample], samples as in mask", fold.shape == of_mask)


def _are_figures(array: np.ndarray) -> bool:
    """Whether an array holds numbers that can be averaged and plotted; they need not be finite."""
    if array.dtype.kind not in "biuf":
        return False
    wide = array.astype(np.float64)
    return not (np.isfinite(wide) & (np.abs(wide) > LARGEST_MARGIN)).any()


def _numbers(path: Path, name: str, models: np.ndarray) -> np.ndarray:
    """Reads and checks numbers of models."""
    _check(path, name, models, "iu", "integers [model]", models.ndim == 1)
    if models.size and models.min() < 0:
        raise DamagedFile(f"{path}: {name}: {models.min()} is not a model number; models are counted from 0")
    return models


def _diverged_of(path: Path, arrays: dict[str, np.ndarray]) -> tuple[int, ...]:
    return tuple(_numbers(path, "diverged", arrays.pop("diverged", np.zeros(0, np.int64))).tolist())


def _check(path: Path, name: str, array: np.ndarray, kinds: str, expected: str, fits: bool) -> None:
    if not fits or array.dtype.kind not in kinds:
        raise DamagedFile(f"{path}: {name} is {array.dtype} {list(array.shape)}, expected {expected}")


def metadata_of(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Metadata of an `.npz` of a run; empty if it has none.

    Raises:
        DamagedFile: Its `metadata` or the `cache_key` in it is not a JSON object.
    """
    stored = arrays.get("metadata", np.array("{}"))
    if stored.ndim or stored.dtype.kind != "U" or stored.nbytes > _MAX_METADATA_BYTES:
        raise DamagedFile(f"{path}: metadata is {stored.dtype} {list(stored.shape)}, expected one text of JSON")
    try:
        metadata = json.loads(str(stored))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path}: metadata is not JSON: {error}") from error
    if not isinstance(metadata, dict) or not isinstance(metadata.get("cache_key", {}), dict):
        raise DamagedFile(f"{path}: metadata is not a JSON object whose `cache_key` is an object")
    return metadata


def recorded_number(metadata: Any, *path: str) -> float | None:
    """Positive number at a path in untrusted metadata; None if there is none."""
    for name in path:
        metadata = metadata.get(name) if isinstance(metadata, dict) else None
    sound = isinstance(metadata, int | float) and not isinstance(metadata, bool) and 0 < metadata < _LARGEST_NUMBER
    return float(metadata) if sound else None


def _refuse_misfit(first_path: Path, first: Chunk, path: Path, chunk: Chunk) -> None:
    if chunk.phi.shape[1:] != first.phi.shape[1:]:
        raise InputError(
            f"{path}: phi is {list(chunk.phi.shape[1:])} [view, sample], but {first_path.name} has "
            f"{list(first.phi.shape[1:])}"
        )
    for name in ("free", "fold"):
        if not np.array_equal(getattr(first, name), getattr(chunk, name)):
            raise InputError(f"{path}: {name} differs from that of {first_path.name}")
    difference = describe_difference(first.metadata, chunk.metadata)
    if difference:
        raise InputError(f"{path}: does not belong with {first_path.name}: {difference}")


def describe_difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Names the entries of `metadata["cache_key"]` in which two chunks differ; empty if they agree."""
    left, right = dict(_leaves(first.get("cache_key", {}))), dict(_leaves(second.get("cache_key", {})))
    return ", ".join(
        _difference(name, left.get(name), right.get(name))
        for name in sorted({*left, *right})
        if left.get(name) != right.get(name)
    )


def _difference(name: str, there: Any, here: Any) -> str:
    if name in _DIGESTS and there and here:
        return f"{_DIGESTS[name]} differ"
    return f"{name} is {there!r} there and {here!r} here"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found
