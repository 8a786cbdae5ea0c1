"""Checks labels, ids and memberships of a file of samples of any kind."""

import reprlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bridge.safeload import as_array
from bridge.stored import describe_value
from bridge.unpickle import bytes_in_memory
from jaxmia.errors import InputError

_BYTES_A_CHARACTER = 4

Place = Callable[[int], str]
"""Function from an entry's index to its place in the file, for messages."""


def labels_of(path: Path, entries: Sequence | np.ndarray, num_classes: int | None, place: Place) -> np.ndarray:
    """Checks labels and returns them as int32 `[sample]`.

    Raises:
        InputError: A label is not an integer from 0, or not below `num_classes`.
    """
    limit = np.iinfo(np.int32).max if num_classes is None else num_classes
    labels = np.empty(len(entries), np.int32)
    for index, entry in enumerate(entries):
        label = integer(entry)
        if label is None or not 0 <= label < limit:
            allowed = "an integer from 0" if num_classes is None else f"an integer from 0 to {num_classes - 1}"
            raise InputError(f"{path}: {place(index)} is {shown(entry)}, allowed is {allowed}")
        labels[index] = label
    return labels


def ids_of(path: Path, entries: Sequence | np.ndarray, place: Place) -> np.ndarray:
    """Checks ids and returns them as text `[sample]`.

    Raises:
        InputError: An id is neither an integer nor printable text, occurs twice, or is so long that the array, in which
            each takes the memory of the longest, would be far larger than the file.
    """
    names: dict[str, int] = {}
    for index, entry in enumerate(entries):
        number = None if isinstance(entry, str) else integer(entry)
        name = entry if isinstance(entry, str) else "" if number is None else str(number)
        if not name or not name.isprintable():
            raise InputError(f"{path}: {place(index)} is {shown(entry)}, allowed is an integer or a printable string")
        if name in names:
            raise InputError(
                f"{path}: {place(index)} is {shown(name)}, as {place(names[name])} is; expected each id once"
            )
        names[name] = index
    longest = max(map(len, names), default=0)
    if _BYTES_A_CHARACTER * longest * len(names) > bytes_in_memory(path.stat().st_size):
        raise InputError(f"{path}: ids: one of {len(names)} has {longest} characters; use shorter ones")
    return np.array(list(names), np.str_)


def membership_of(path: Path, entries: Sequence | np.ndarray, place: Place) -> np.ndarray:
    """Checks memberships and returns them as int8 `[sample]`, 1 or 0.

    Raises:
        InputError: A membership is missing, or is neither 1 nor 0.
    """
    missing = [index for index, entry in enumerate(entries) if entry is None]
    if missing:
        raise InputError(
            f"{path}: membership is missing for {len(missing)} of {len(entries)} samples, "
            f"first {place(missing[0])}; the public file needs 1 or 0 for each"
        )
    membership = np.empty(len(entries), np.int8)
    for index, entry in enumerate(entries):
        value = integer(entry)
        if value not in (0, 1):
            raise InputError(f"{path}: {place(index)} is {shown(entry)}, allowed is 1 (member) or 0 (non-member)")
        membership[index] = value
    return membership


def check_lengths(path: Path, **columns: Sequence | np.ndarray) -> None:
    """Checks that columns have equal lengths.

    Raises:
        InputError: They differ; the message lists the lengths.
    """
    sizes = {name: len(entries) for name, entries in columns.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"{path}: lengths differ: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))


def integer(value: object) -> int | None:
    """Integer value of a number or of an array with one number; None if it has none."""
    array = as_array(value)
    if array is None or array.size != 1:
        return None
    number = array.item()
    return int(number) if isinstance(number, int | float) and number == number // 1 else None


def shown(value: object) -> str:
    """Describes a value from a file in a few words, without calling its own methods."""
    array = as_array(value)
    if array is not None and array.size == 1:
        return repr(array.item())
    if array is not None:
        return f"an array of {array.dtype} {array.shape}"
    return reprlib.repr(value) if isinstance(value, str) or value is None else f"a {describe_value(value)}"
