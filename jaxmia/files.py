"""Files that appear whole or not at all."""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxmia.errors import InputError


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yields a binary file that replaces `path` when the block ends, and vanishes if the block raises.

    The bytes reach the disk before the name does, so a crash or a power cut leaves the old file or the new one.

    Raises:
        InputError: The folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


def save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays to an `.npz` that loads with `allow_pickle=False`, whole or not at all."""
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise TypeError(f"array {name!r} holds Python objects; .npz files of jaxmia hold plain arrays only")
    with atomic_write(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_npz(path: Path, required: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Reads every array of an `.npz`, never running what a pickle says.

    Raises:
        InputError: The file is missing, damaged, no `.npz`, holds pickled objects, or lacks a required array.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name.removesuffix(".npy"): _read_array(archive, name) for name in archive.namelist()}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Exception as error:  # a damaged archive raises whatever its readers happen to trip over
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{path}: cannot be read as .npz: {reason}") from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; it holds {', '.join(arrays) or 'nothing'}")
    return arrays


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    # `ZipFile.read` compares the checksum of all bytes; `np.load` does not where a damaged header asks for fewer.
    return np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)


def read_json(path: Path, maker: str) -> Any:
    """What a JSON file holds.

    Args:
        path: The file.
        maker: The command that makes it.

    Raises:
        InputError: The file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; `{maker}` makes it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {' '.join(str(error).split())}") from error


def cache_folder() -> Path:
    """Where plans and compiled programs are kept: `$XDG_CACHE_HOME/jaxmia`, by default `~/.cache/jaxmia`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxmia"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
