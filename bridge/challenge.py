"""Reads the files of a challenge as a `Pool` and writes them: `.pt` as in the course, `.npz`, or `.csv`."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from bridge.arrays import check_pixels, load_arrays, save_arrays
from bridge.fields import check_lengths, ids_of, labels_of, membership_of, shown
from bridge.safeload import as_array, load
from bridge.stored import StoredObject
from bridge.table import Categories, check_same_columns, find_categories, load_table, load_table_ids
from bridge.unpickle import bytes_in_memory
from jaxmia.config import MAX_BYTES
from jaxmia.data.kinds import IMAGES, as_floats, kind_of
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.errors import InputError
from jaxmia.files import atomic_write, write_text

CLASSES = ("__main__.MembershipDataset", "__main__.TaskDataset")
IMAGE_TYPES = ("uint8", "float32", "float64")

_LISTED = 8


def load_challenge(
    public: Path,
    private: Path,
    *,
    classes: Sequence[str] = CLASSES,
    max_bytes: int = MAX_BYTES,
    num_classes: int | None = None,
    one_hot: Sequence[str] = (),
) -> Pool:
    """Reads both files of a challenge, public samples first.

    Samples keep the type in which they are stored: images in floats stay floats.

    Args:
        public: File of samples whose membership is known.
        private: File of samples of unknown membership; memberships in it are never read.
        classes: Full names of the pickled class to accept; its code is not needed and not run.
        max_bytes: Largest size of either file and of its images in memory.
        num_classes: Number of classes, if known from the target.
        one_hot: Categorical columns of `.csv` files.

    Raises:
        InputError: `load_split` raises it, an id occurs in both files, or their samples differ in kind, shape or
            columns.
    """
    categories = categories_of((public, private), one_hot, max_bytes)
    parts = [
        load_split(
            path,
            known=known,
            classes=classes,
            max_bytes=max_bytes,
            num_classes=num_classes,
            categories=categories,
        )
        for path, known in ((public, True), (private, False))
    ]
    if _is_table(public) and _is_table(private):
        check_same_columns(public, private, max_bytes)
    shared = np.intersect1d(parts[0].ids, parts[1].ids)
    if len(shared):
        raise InputError(f"{private}: ids: {str(shared[0])!r} is also in {public}, expected each id once")
    images = [part.images_to("join") for part in parts]
    kinds = [kind_of(image) for image in images]
    if kinds[0] is not kinds[1]:
        raise InputError(f"{private}: holds {kinds[1].name}, but {public} {kinds[0].name}")
    if images[0].shape[1:] != images[1].shape[1:]:
        shapes = [image.shape[1:] for image in images]
        raise InputError(
            f"{private}: its {kinds[1].name} have shape {shapes[1]}, those of {public} {shapes[0]} {kinds[0].axes}"
        )
    if kinds[0] is IMAGES and images[0].dtype != images[1].dtype:
        images = [as_floats(image) for image in images]
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
    categories: Categories | None = None,
) -> Pool:
    """Reads one file of a challenge without running any code in it.

    An `.npz` contains `images`, `features` or `tokens`, and `labels`, `ids` and `membership`; a `.csv` the columns
    `id`, `label`, `membership` and features. Any other file is a `torch.save` of one object, or of one dict, with
    `ids`, `imgs`, `labels`, `membership`: lists with one entry per sample, or stacked tensors. Ids become strings,
    images `[sample, height, width, channel]`.

    Args:
        path: Path of the file.
        known: Whether the file must contain memberships; otherwise they are never read.
        classes: Full names of the pickled class to accept.
        max_bytes: Largest size of the file and of its images in memory.
        num_classes: Number of classes, if known.
        categories: Result of `categories_of`.

    Raises:
        InputError: The file cannot be read safely, or a field is missing or has invalid content.
    """
    path = Path(path)
    if _is_table(path):
        return load_table(path, known=known, max_bytes=max_bytes, num_classes=num_classes, categories=categories)
    if path.suffix.lower() == ".npz":
        return load_arrays(path, known=known, max_bytes=max_bytes, num_classes=num_classes)
    fields = _fields(path, load(path, max_bytes=max_bytes, classes=classes), known)
    columns = {name: _entries(path, name, value) for name, value in fields.items() if name != "imgs"}
    images = _images(path, fields["imgs"], max_bytes)
    check_lengths(path, **columns, imgs=images)
    return Pool(
        images,
        labels_of(path, columns["labels"], num_classes, lambda index: f"labels[{index}]"),
        ids_of(path, columns["ids"], lambda index: f"ids[{index}]"),
        membership_of(path, columns["membership"], lambda index: f"membership[{index}]")
        if known
        else np.full(len(images), UNKNOWN, np.int8),
    )


def load_ids(path: Path) -> np.ndarray:
    """Reads the ids of the samples in one file of a challenge, text `[sample]`.

    Raises:
        InputError: The file cannot be read safely, or an id is missing or occurs twice.
    """
    return load_table_ids(Path(path), MAX_BYTES) if _is_table(path) else load_split(path, known=False).ids


def categories_of(paths: Sequence[Path], one_hot: Sequence[str], max_bytes: int = MAX_BYTES) -> Categories:
    """Finds the categories of the columns to encode one-hot, over all files.

    Raises:
        InputError: A file is not a `.csv`, cannot be read or lacks a column, or a value is missing.
    """
    if not one_hot:
        return {}
    other = [path for path in paths if not _is_table(path)]
    if other:
        raise InputError(f"{other[0]}: challenge.one_hot names columns of .csv files, but this is not one")
    return find_categories(paths, one_hot, max_bytes)


def save_challenge(pool: Pool, public: Path, private: Path) -> None:
    """Writes the pool as the two files of a challenge, each atomically.

    An `.npz` contains the pool's own numbers, for samples of any kind. Any other path gets images in the form that the
    course's loader expects: an object of class `__main__.MembershipDataset` with lists `ids`, `imgs` (float32
    `[channel, height, width]` in [0, 1], each with its own storage), `labels`, `membership`, and `transform` None.
    """
    _save_split(pool, pool.public, public)
    _save_split(pool, ~pool.public, private)


def save_truth(path: Path, ids: np.ndarray, membership: np.ndarray) -> None:
    """Writes `id,membership` rows (1 member, 0 non-member) of arrays `[sample]`, atomically.

    `jaxmia.leaderboard.submission.read_truth` reads the file.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "membership"))
    writer.writerows(zip(ids.tolist(), membership.astype(int).tolist(), strict=True))
    write_text(path, text.getvalue())


class MembershipDataset:
    """Class of the object in the course's files."""


MembershipDataset.__module__ = "__main__"


@contextmanager
def _importable_from_main() -> Iterator[None]:
    """Makes the class importable from `__main__` within the block, where pickle looks it up by name."""
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


def _is_table(path: Path) -> bool:
    return Path(path).suffix.lower() == ".csv"


def _save_split(pool: Pool, chosen: np.ndarray, path: Path) -> None:
    if Path(path).suffix.lower() == ".npz":
        save_arrays(pool.take(chosen), path)
        return
    if kind_of(pool.images_to("save")) is not IMAGES:
        raise InputError(f"{path}: rows are written as .npz, not as {Path(path).suffix or 'such a file'}")
    images = np.moveaxis(as_floats(pool.images_to("save")[chosen]), -1, 1)
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
        raise InputError(f"{path}: contains {shown(content)}, expected an object with ids, imgs, labels, membership")
    names = ("ids", "imgs", "labels", "membership") if known else ("ids", "imgs", "labels")
    missing = [name for name in names if attributes.get(name) is None]
    if missing:
        found = ", ".join(shown(name) for name in list(attributes)[:_LISTED]) or "nothing"
        raise InputError(f"{path}: lacks {', '.join(missing)}; it holds {found}")
    return {name: attributes[name] for name in names}


def _entries(path: Path, name: str, value: object) -> Sequence | np.ndarray:
    if isinstance(value, list | tuple):
        return value
    array = as_array(value)
    if array is None or not array.ndim:
        raise InputError(f"{path}: {name} is {shown(value)}, expected a list or a tensor with one entry per sample")
    return array


def _images(path: Path, value: object, max_bytes: int) -> np.ndarray:
    """Checks images and returns them as `[sample, height, width, channel]`, uint8 as stored or float32 in [0, 1]."""
    images = _stacked(path, value, max_bytes)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"{path}: imgs have shape {images.shape}, expected [sample, channel, height, width] with 1 or 3 channels"
        )
    channels_last = np.moveaxis(images, 1, -1)
    if images.dtype == np.uint8:
        return np.ascontiguousarray(channels_last)
    with np.errstate(over="ignore"):  # infinity is rejected next
        floats = np.ascontiguousarray(channels_last, np.float32)
    check_pixels(path, "imgs", floats)
    return np.clip(floats, 0, 1, out=floats)


def _stacked(path: Path, value: object, max_bytes: int) -> np.ndarray:
    listed = value if isinstance(value, list | tuple) else [value]
    arrays: list[np.ndarray] = []
    for index, entry in enumerate(listed):
        array = as_array(entry)
        if array is None or array.dtype.name not in IMAGE_TYPES:
            expected = ", ".join(IMAGE_TYPES)
            raise InputError(f"{path}: imgs[{index}] is {shown(entry)}, expected a plain tensor of {expected}")
        arrays.append(array)
        if (array.shape, array.dtype) != (arrays[0].shape, arrays[0].dtype):
            raise InputError(
                f"{path}: imgs[{index}] is {array.dtype} {array.shape}, "
                f"imgs[0] {arrays[0].dtype} {arrays[0].shape}; expected one type and shape"
            )
    # A list may contain one image many times, so its size once unpacked counts, not its size in the file.
    size, allowed = sum(array.nbytes for array in arrays), min(max_bytes, bytes_in_memory(path.stat().st_size))
    if not size:
        raise InputError(f"{path}: imgs hold no pixels")
    if size > allowed:
        raise InputError(f"{path}: imgs unpack to {size} bytes, allowed are {allowed}")
    return arrays[0] if listed is not value else np.stack(arrays)
