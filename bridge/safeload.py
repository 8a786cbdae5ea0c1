"""Reads `torch.save` files without running code in them, in memory that is bounded by the file's size.

The container is read by Python's `zipfile` alone, so that two readers cannot disagree on its content, and the pickle by
`bridge.unpickle`.
"""

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bridge.stored import StoredArray
from bridge.unpickle import Unpickler
from jaxmia.config import ChallengeConfig
from jaxmia.errors import InputError, one_line, printable
from jaxmia.files import read_entry, regular_size

_NUMPY_KNOWS = frozenset(
    (
        torch.bool,
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    )
)

_NUMPY_DIMENSIONS = 64


def load(path: Path, *, max_bytes: int, classes: Sequence[str] = ()) -> object:
    """Reads the object in a `torch.save` file to the CPU.

    Args:
        path: Path of the file, in the zip format that PyTorch writes since 1.6.
        max_bytes: Largest size to accept, on disk and unpacked.
        classes: Full names (`module.Class`) whose instances may occur; each becomes a `StoredObject`.

    Raises:
        InputError: The file is missing, too large, damaged, not of this format, or names other code.
    """
    path = Path(path)
    size = checked_size(path, max_bytes)
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile raises half a dozen types on damaged files
        raise InputError(
            f"{path}: is cut short or not a torch.save file: expected the zip format of PyTorch since 1.6"
        ) from error
    with archive:
        records = _records(path, archive, size)

        def record(name: str) -> bytearray:
            return read_entry(archive, records[name])

        try:
            byte_order = record("byteorder").decode() if "byteorder" in records else "little"
            reader = Unpickler(bytes(record("data.pkl")), record, size, classes, byte_order)
        except Exception as error:  # reading a damaged record can raise anything
            raise _damaged(path, error) from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch warns of types that it does not support yet
                content = reader.load()
        except Exception as error:  # a damaged or hostile pickle can raise anything
            raise _foreign(path, reader) or _damaged(path, error) from error
    if foreign := _foreign(path, reader):
        raise foreign
    return content


def checked_size(path: Path, max_bytes: int) -> int:
    """Size of a file in bytes.

    Raises:
        InputError: The file is missing, empty, too large, or not a regular file.
    """
    try:
        size = regular_size(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not size:
        raise InputError(f"{path}: is empty")
    if size > max_bytes:
        raise InputError(f"{path}: has {size} bytes, allowed are {max_bytes}")
    return size


def as_array(value: object) -> np.ndarray | None:
    """A NumPy view of a plain tensor, array or number from `load`; None for anything else."""
    if isinstance(value, torch.Tensor):
        return value.numpy() if value.dtype in _NUMPY_KNOWS and value.ndim <= _NUMPY_DIMENSIONS else None
    if isinstance(value, StoredArray):
        return value.value
    if isinstance(value, bool | int | float | np.generic | np.ndarray):
        array = np.asarray(value)
        return None if array.dtype.hasobject else array  # an integer too large for NumPy
    return None


def _records(path: Path, archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Records of a `torch.save` file by their names in its only folder."""
    entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size:
        raise InputError(
            f"{path}: unpacks to {unpacked} bytes, but has {size}; torch.save neither compresses nor shares records"
        )
    folders = [entry.filename.removesuffix("data.pkl") for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(folders) != 1:
        raise InputError(f"{path}: is not a torch.save file: it contains {len(folders)} data.pkl, expected one")
    records = {}
    for entry in entries:
        name = entry.filename.removeprefix(folders[0])
        if entry.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{path}: {printable(entry.filename)} is compressed, unlike in torch.save; unpack it")
        if name in records:
            raise InputError(f"{path}: {printable(entry.filename)} occurs twice")
        records[name] = entry
    return records


def _foreign(path: Path, reader: Unpickler) -> InputError | None:
    if not reader.foreign:
        return None
    names, allowed = ", ".join(sorted(reader.foreign)), ", ".join(("tensors", *reader.classes))
    if any(name.startswith("torch.nn.modules.") for name in reader.foreign):
        return InputError(
            f"{path}: contains a whole torch.nn.Module, which would run code; nothing of it was run; save its weights "
            "with torch.save(model.state_dict(), ...)"
        )
    if not reader.classes and reader.foreign <= set(ChallengeConfig().dataset_classes):
        return InputError(
            f"{path}: contains the samples of a challenge ({printable(names)}), expected the weights of a target; "
            "nothing of it was run"
        )
    return InputError(f"{path}: names {printable(names)}, allowed are {allowed}; nothing of it was run")


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: is damaged or not allowed ({one_line(error)}); nothing was run")
