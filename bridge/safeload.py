"""Reads what `torch.save` wrote without running what its pickle says.

PyTorch's restricted unpickler does the work. What it must know beyond tensors is answered by inert stand-ins: a class
named in the file keeps its attributes and nothing else, and NumPy's arrays and numbers are rebuilt from their bytes
for plain numeric types only, because NumPy's own unpickling trusts the sizes that it is told.
"""

import pickle
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from jaxmia.errors import InputError, printable

_PLAIN = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))


class StoredObject:
    """Stands in for an instance of a class named in a file."""

    attributes: object = None

    def __setstate__(self, state: object) -> None:
        self.attributes = state


class _StoredDtype:
    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if code not in _PLAIN:
            raise pickle.UnpicklingError(f"NumPy type {code!r} is none of {', '.join(sorted(_PLAIN))}")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.value = self.value.newbyteorder(state[1])


class _StoredArray:
    value: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran_order, raw = state
        self.value = np.frombuffer(raw, dtype.value).reshape(shape, order="F" if fortran_order else "C")


def _rebuild_array(kind: object, shape: object, code: object) -> _StoredArray:
    return _StoredArray()


def _rebuild_scalar(dtype: _StoredDtype, raw: bytes) -> np.generic:
    return np.frombuffer(raw, dtype.value, count=1)[0]


_NUMPY = [(_StoredDtype, "numpy.dtype"), (_StoredArray, "numpy.ndarray")] + [
    (rebuild, f"numpy.{core}.multiarray.{name}")
    for core in ("core", "_core")
    for rebuild, name in ((_rebuild_array, "_reconstruct"), (_rebuild_scalar, "scalar"))
]


def load(path: Path, *, max_bytes: int, classes: Sequence[str] = ()) -> object:
    """Reads one object from a file of `torch.save`, on the CPU.

    Args:
        path: The file; the zip format, which PyTorch writes since 1.6.
        max_bytes: The largest size to accept, on disk and unpacked.
        classes: Full names (`module.Class`) whose instances may occur; each becomes a `StoredObject`.

    Raises:
        InputError: The file is missing, too large, no such file, damaged, or names anything else that would have to
            be run.
    """
    path = Path(path)
    _check_container(path, max_bytes)
    stand_ins = [*_NUMPY, *((StoredObject, name) for name in classes)]
    with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged or hostile pickle can raise anything
            raise InputError(f"{path}: {_refusal(path, classes, error)}") from error


def as_array(value: object) -> np.ndarray | None:
    """A NumPy view of a plain tensor, array or number from `load`; None for anything else."""
    # A file can hang attributes, and so methods, on a tensor: such a one is no plain tensor.
    if type(value) is torch.Tensor and not vars(value):
        dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        lazy = dense and (value.is_conj() or value.is_neg())
        return value.detach().numpy() if dense and not lazy and value.dtype != torch.bfloat16 else None
    if isinstance(value, _StoredArray):
        return value.value
    if isinstance(value, bool | int | float | np.generic | np.ndarray):
        array = np.asarray(value)
        return None if array.dtype.hasobject else array
    return None


def _check_container(path: Path, max_bytes: int) -> None:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise InputError(f"{path}: has {size} bytes, allowed are {max_bytes}")
        with path.open("rb") as file:
            unpacked = _unpacked_size(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not size:
        raise InputError(f"{path}: is empty")
    if unpacked is None:
        raise InputError(f"{path}: is cut short or no file of torch.save: expected the zip format of PyTorch since 1.6")
    if unpacked > max_bytes:
        raise InputError(f"{path}: unpacks to {unpacked} bytes, allowed are {max_bytes}")


def _unpacked_size(file: BinaryIO) -> int | None:
    """Bytes of all entries of a zip file; None if it is none."""
    try:
        with zipfile.ZipFile(file) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except Exception:  # zipfile raises half a dozen types on damaged files
        return None


def _refusal(path: Path, classes: Sequence[str], error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        try:
            foreign = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except Exception:  # the pickle is damaged as well
            foreign = []
        if foreign:
            allowed = ", ".join(("tensors", *classes))
            return f"names {printable(', '.join(foreign))}, allowed are {allowed}; nothing of it was run"
    reason = printable(str(error).strip().partition("\n")[0])
    return f"is damaged or not allowed ({type(error).__name__}{': ' * bool(reason)}{reason}); nothing was run"
