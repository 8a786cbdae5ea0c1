"""The course's challenge files to a `Pool`, and back."""

import csv
import io
import reprlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from bridge.safeload import as_array, load
from bridge.stored import StoredObject, kind_of
from bridge.unpickle import bytes_in_memory
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.errors import InputError
from jaxmia.files import atomic_write, write_text

CLASSES = ("__main__.MembershipDataset", "__main__.TaskDataset")
MAX_BYTES = 4 * 2**30
IMAGE_TYPES = ("uint8", "float32", "float64")

# Resizing in float32 may leave [0, 1] by a few units in the last place.
_ROUNDING = 1e-5
_CHUNK = 1024
_LISTED = 8


def load_challenge(
    public: Path,
    private: Path,
    *,
    classes: Sequence[str] = CLASSES,
    max_bytes: int = MAX_BYTES,
    num_classes: int | None = None,
) -> Pool:
    """Reads both files of a challenge, public samples first.

    Args:
        public: File of samples whose membership is known.
        private: File of samples whose membership is in question. What it says about membership is never read.
        classes: Full names of the pickled class to accept; its code is not needed and not run.
        max_bytes: Largest size of either file and of its images in memory.
        num_classes: Number of classes, where it is known from the target.

    Raises:
        InputError: As `load_split` does; or an id occurs in both files, or their images differ in shape.
    """
    parts = [
        load_split(path, known=known, classes=classes, max_bytes=max_bytes, num_classes=num_classes)
        for path, known in ((public, True), (private, False))
    ]
    shared = np.intersect1d(parts[0].ids, parts[1].ids)
    if len(shared):
        raise InputError(f"{private}: ids: {str(shared[0])!r} is also in {public}, expected each id once")
    images = [part.images_to("join") for part in parts]
    if images[0].shape[1:] != images[1].shape[1:]:
        shapes = [image.shape[1:] for image in images]
        raise InputError(
            f"{private}: imgs have shape {shapes[1]}, those of {public} {shapes[0]} [height, width, channel]"
        )
    if images[0].dtype != images[1].dtype:
        images = [_as_float(image) for image in images]
    return Pool(
        images=np.concatenate(images),
        labels=np.concatenate([part.labels for part in parts]),
        ids=np.concatenate([part.ids for part in parts]),
        membership=np.concatenate([part.membership for part in parts]),
    )


def load_split(
    path: Path,
    *,
    known: bool,
    classes: Sequence[str] = CLASSES,
    max_bytes: int = MAX_BYTES,
    num_classes: int | None = None,
) -> Pool:
    """Reads one file of a challenge without running anything that its pickle says.

    The file is a `torch.save` of one object, or of one dict, with `ids`, `imgs`, `labels`, `membership`: lists with one
    entry a sample, or stacked tensors. Ids become strings, images `[sample, height, width, channel]`.

    Args:
        path: The file.
        known: The membership of each sample must be there. If not, what is there is never read.
        classes: Full names of the pickled class to accept.
        max_bytes: Largest size of the file and of its images in memory.
        num_classes: Number of classes, where it is known.

    Raises:
        InputError: The file cannot be read safely, or a field is missing or holds what is not allowed.
    """
    path = Path(path)
    fields = _fields(path, load(path, max_bytes=max_bytes, classes=classes), known)
    columns = {name: _entries(path, name, value) for name, value in fields.items() if name != "imgs"}
    sizes = {name: len(entries) for name, entries in columns.items()}
    images = _images(path, fields["imgs"], max_bytes)
    sizes["imgs"] = len(images)
    if len(set(sizes.values())) > 1:
        raise InputError(f"{path}: lengths differ: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
    membership = _membership(path, columns["membership"]) if known else np.full(len(images), UNKNOWN, np.int8)
    return Pool(images, _labels(path, columns["labels"], num_classes), _ids(path, columns["ids"]), membership)


def save_challenge(pool: Pool, public: Path, private: Path) -> None:
    """Writes the pool as the two files of a challenge, each whole or not at all.

    The class is `__main__.MembershipDataset`, as the course's loader expects: lists `ids`, `imgs` (float32
    `[channel, height, width]` in [0, 1], each with a storage of its own), `labels`, `membership`, and `transform` None.
    """
    _save_split(pool, pool.public, public)
    _save_split(pool, ~pool.public, private)


def save_truth(path: Path, ids: np.ndarray, membership: np.ndarray) -> None:
    """Writes `id,membership` rows (1 member, 0 non-member) of arrays `[sample]`, whole or not at all.

    It is what a challenge keeps apart; `jaxmia.leaderboard.submission.read_truth` reads it.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "membership"))
    writer.writerows(zip(ids.tolist(), membership.astype(int).tolist(), strict=True))
    write_text(path, text.getvalue())


class MembershipDataset:
    """What the files hold an instance of."""


MembershipDataset.__module__ = "__main__"


@contextmanager
def _importable_from_main() -> Iterator[None]:
    """Pickle writes a class by its address and looks there for it: shows it there meanwhile."""
    main, name = sys.modules["__main__"], MembershipDataset.__name__
    before = vars(main).get(name)
    setattr(main, name, MembershipDataset)
    try:
        yield
    finally:
        if before is None:
            delattr(main, name)
        else:
            setattr(main, name, before)


def _save_split(pool: Pool, chosen: np.ndarray, path: Path) -> None:
    images = np.moveaxis(_as_float(pool.images_to("save")[chosen]), -1, 1)
    content = MembershipDataset()
    content.__dict__ = {
        "ids": [
            int(name) if name.isdecimal() and str(int(name)) == name else name for name in pool.ids[chosen].tolist()
        ],
        "imgs": [torch.tensor(np.ascontiguousarray(image)) for image in images],
        "labels": pool.labels[chosen].tolist(),
        "membership": [None if value == UNKNOWN else value for value in pool.membership[chosen].tolist()],
        "transform": None,
    }
    with atomic_write(path) as file, _importable_from_main():
        torch.save(content, file)


def _fields(path: Path, content: object, known: bool) -> dict[str, object]:
    attributes = content.attributes if isinstance(content, StoredObject) else content
    if not isinstance(attributes, dict):
        raise InputError(f"{path}: holds {_shown(content)}, expected an object with ids, imgs, labels, membership")
    names = ("ids", "imgs", "labels", "membership") if known else ("ids", "imgs", "labels")
    missing = [name for name in names if attributes.get(name) is None]
    if missing:
        found = ", ".join(_shown(name) for name in list(attributes)[:_LISTED]) or "nothing"
        raise InputError(f"{path}: lacks {', '.join(missing)}; it holds {found}")
    return {name: attributes[name] for name in names}


def _entries(path: Path, name: str, value: object) -> Sequence | np.ndarray:
    if isinstance(value, list | tuple):
        return value
    array = as_array(value)
    if array is None or not array.ndim:
        raise InputError(f"{path}: {name} is {_shown(value)}, expected a list or a tensor with one entry a sample")
    return array


def _integer(value: object) -> int | None:
    """The integer that a number, or an array of one number, stands for; None where it stands for none."""
    array = as_array(value)
    if array is None or array.size != 1:
        return None
    number = array.item()
    return int(number) if isinstance(number, int | float) and number == number // 1 else None


def _labels(path: Path, entries: Sequence | np.ndarray, num_classes: int | None) -> np.ndarray:
    limit = np.iinfo(np.int32).max if num_classes is None else num_classes
    labels = np.empty(len(entries), np.int32)
    for index, entry in enumerate(entries):
        label = _integer(entry)
        if label is None or not 0 <= label < limit:
            allowed = "an integer from 0" if num_classes is None else f"an integer from 0 to {num_classes - 1}"
            raise InputError(f"{path}: labels[{index}] is {_shown(entry)}, allowed is {allowed}")
        labels[index] = label
    return labels


def _ids(path: Path, entries: Sequence | np.ndarray) -> np.ndarray:
    names: dict[str, int] = {}
    for index, entry in enumerate(entries):
        number = None if isinstance(entry, str) else _integer(entry)
        name = entry if isinstance(entry, str) else "" if number is None else str(number)
        if not name or not name.isprintable():
            raise InputError(f"{path}: ids[{index}] is {_shown(entry)}, allowed is an integer or a printable string")
        if name in names:
            raise InputError(f"{path}: ids[{index}] is {_shown(name)}, as ids[{names[name]}] is; expected each id once")
        names[name] = index
    return np.array(list(names), np.str_)


def _membership(path: Path, entries: Sequence | np.ndarray) -> np.ndarray:
    missing = [index for index, entry in enumerate(entries) if entry is None]
    if missing:
        raise InputError(
            f"{path}: membership is missing for {len(missing)} of {len(entries)} samples, "
            f"first membership[{missing[0]}]; the public file needs 1 or 0 for each"
        )
    membership = np.empty(len(entries), np.int8)
    for index, entry in enumerate(entries):
        value = _integer(entry)
        if value not in (0, 1):
            raise InputError(f"{path}: membership[{index}] is {_shown(entry)}, allowed is 1 (member) or 0 (non-member)")
        membership[index] = value
    return membership


def _images(path: Path, value: object, max_bytes: int) -> np.ndarray:
    """`[sample, height, width, channel]`, uint8 where that is exact, else float32 in [0, 1]."""
    images = _stacked(path, value, max_bytes)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"{path}: imgs have shape {images.shape}, expected [sample, channel, height, width] with 1 or 3 channels"
        )
    channels_last = np.moveaxis(images, 1, -1)
    if images.dtype == np.uint8:
        return np.ascontiguousarray(channels_last)
    with np.errstate(over="ignore"):  # infinity is refused next
        floats = np.ascontiguousarray(channels_last, np.float32)
    _check_range(path, floats)
    exact = _as_bytes(floats)
    return np.clip(floats, 0, 1, out=floats) if exact is None else exact


def _stacked(path: Path, value: object, max_bytes: int) -> np.ndarray:
    listed = value if isinstance(value, list | tuple) else [value]
    arrays: list[np.ndarray] = []
    for index, entry in enumerate(listed):
        array = as_array(entry)
        if array is None or array.dtype.name not in IMAGE_TYPES:
            expected = ", ".join(IMAGE_TYPES)
            raise InputError(f"{path}: imgs[{index}] is {_shown(entry)}, expected a plain tensor of {expected}")
        arrays.append(array)
        if (array.shape, array.dtype) != (arrays[0].shape, arrays[0].dtype):
            raise InputError(
                f"{path}: imgs[{index}] is {array.dtype} {array.shape}, "
                f"imgs[0] {arrays[0].dtype} {arrays[0].shape}; expected one type and shape"
            )
    # A list may hold one image many times, so what it comes to counts, not what is stored.
    size, allowed = sum(array.nbytes for array in arrays), min(max_bytes, bytes_in_memory(path.stat().st_size))
    if not size:
        raise InputError(f"{path}: imgs hold no pixels")
    if size > allowed:
        raise InputError(f"{path}: imgs unpack to {size} bytes, allowed are {allowed}")
    return arrays[0] if listed is not value else np.stack(arrays)


def _check_range(path: Path, images: np.ndarray) -> None:
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        inside = (part >= -_ROUNDING) & (part <= 1 + _ROUNDING)
        if not inside.all():
            index = np.argwhere(~inside)[0]
            given = part[tuple(index)]
            raise InputError(f"{path}: imgs[{start + index[0]}] has a pixel {given}, allowed are 0 to 1")


def _as_bytes(images: np.ndarray) -> np.ndarray | None:
    levels = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        level = np.rint(np.clip(part, 0, 1) * np.float32(255)).astype(np.uint8)
        if not np.array_equal(_as_float(level), part):
            return None
        levels[start : start + _CHUNK] = level
    return levels


def _as_float(images: np.ndarray) -> np.ndarray:
    return images / np.float32(255) if images.dtype == np.uint8 else images


def _shown(value: object) -> str:
    """A value from a file in a few words, never by a method of its own."""
    array = as_array(value)
    if array is not None and array.size == 1:
        return repr(array.item())
    if array is not None:
        return f"an array of {array.dtype} {array.shape}"
    return reprlib.repr(value) if isinstance(value, str) or value is None else f"a {kind_of(value)}"
