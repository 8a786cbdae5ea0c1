"""Atomic writing of files, and bounded reading of untrusted ones."""

import atexit
import errno
import functools
import io
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import yaml

from jaxmia.errors import DamagedFile, InputError, UnreadableFile, UnwritableFile, printable

_MAX_JSON_BYTES = 16 * 2**20
_MAX_YAML_BYTES = 64 * 1024
_MAX_YAML_NODES = 20_000
_MAX_RATIO = 32
"""Largest ratio of unpacked to compressed bytes; compressed ids and masks reach about half of it."""
_SMALL_BYTES = 16 * 2**20
"""Number of unpacked bytes that are always allowed, however well a file is compressed."""
_BLOCK = 2**20
_HALF_WRITTEN = re.compile(r"\..*\.jaxmia-[a-z0-9_]{8}\.tmp")
_NPY_HEAD = 2**14
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yields a binary file that replaces `path` when the block ends, and is removed if the block raises.

    The bytes reach the disk before the name does, so a crash or a power cut leaves the old file or the new one.

    Raises:
        UnwritableFile: The folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.jaxmia-", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise UnwritableFile(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def is_half_written(path: Path) -> bool:
    """Whether a file has a temporary name of `atomic_write`."""
    return _HALF_WRITTEN.fullmatch(path.name) is not None


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically.

    Raises:
        InputError: The text contains a surrogate, which UTF-8 cannot encode.
        UnwritableFile: The file cannot be written.
    """
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        raise InputError(f"{path}: not written: its text contains {character!r}, which UTF-8 cannot encode") from error
    with atomic_write(path) as file:
        file.write(content)


def json_text(content: Any, indent: int | None = None) -> str:
    """Formats as JSON, which has no numbers that are not finite: these become null.

    >>> json_text({"loss": float("nan"), "models": (0, 1)})
    '{"loss": null, "models": [0, 1]}'
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays atomically to an `.npz` that loads with `allow_pickle=False`."""
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise TypeError(f"array {name!r} holds Python objects; .npz files of jaxmia hold plain arrays only")
    with atomic_write(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_npz(
    path: Path, required: tuple[str, ...] = (), only: tuple[str, ...] | None = None, max_bytes: int | None = None
) -> dict[str, np.ndarray]:
    """Reads arrays of an `.npz` without running any pickle.

    Memory is bounded by the size of the file in advance: arrays may unpack to 32 times that size plus 16 MiB, and their
    shapes must match their bytes.

    Args:
        path: Path of the file.
        required: Arrays that must be present.
        only: Arrays to read if present; all by default.
        max_bytes: Largest size of the file, and of its arrays in memory.

    Raises:
        UnreadableFile: The file is missing, or cannot be read for another reason than its content, such as permission.
        DamagedFile: The file is damaged, too large or not an `.npz`, contains pickled objects, or lacks a required
            array.
    """
    path = Path(path)
    try:
        size = regular_size(path)
        limit = min(most_unpacked(size), sys.maxsize if max_bytes is None else max_bytes)
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            chosen = {name: entry for name, entry in entries.items() if only is None or name in only}
            unpacked = sum(entry.file_size for entry in chosen.values())
            if unpacked > limit:
                raise ValueError(f"its arrays unpack to {unpacked} bytes, allowed for a file of {size} are {limit}")
            arrays = {name: _as_array(read_entry(archive, entry), limit) for name, entry in chosen.items()}
    except FileNotFoundError as error:
        raise UnreadableFile(f"{path}: no such file") from error
    except Exception as error:  # a damaged archive can raise anything in its readers
        reason = printable(" ".join(str(error).split())[:300] or type(error).__name__)
        kind = UnreadableFile if _is_from_machine(error) else DamagedFile
        raise kind(f"{path}: cannot be read as .npz: {reason}") from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise DamagedFile(f"{path}: lacks {', '.join(missing)}; it holds {', '.join(entries) or 'nothing'}")
    return arrays


def _is_from_machine(error: Exception) -> bool:
    """Whether a file could not be read because of the machine rather than its content."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL))


def most_unpacked(size: int) -> int:
    """Number of bytes that the arrays of a compressed file of `size` bytes may take in memory."""
    return _SMALL_BYTES + _MAX_RATIO * size


def regular_size(path: Path) -> int:
    """Size of a file in bytes.

    Raises:
        OSError: It does not exist, or is not a regular file: reading a pipe or a device may never end.
    """
    state = path.stat()
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file")
    return state.st_size


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytearray:
    """Reads a file in a zip archive and compares its checksum.

    Raises:
        ValueError: It is compressed by a method whose memory is not bounded by the size.
        zipfile.BadZipFile: It is damaged.
    """
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} is compressed by method {entry.compress_type}, allowed is deflate")
    content = bytearray(entry.file_size)
    position = 0
    with archive.open(entry) as file:
        while block := file.read(_BLOCK):
            content[position : position + len(block)] = block
            position += len(block)
    if position != entry.file_size:
        raise zipfile.BadZipFile(f"{entry.filename} has {position} bytes, expected {entry.file_size}")
    return content


def _as_array(content: bytearray, limit: int) -> np.ndarray:
    """Views the bytes of an `.npy` file as an array that shares their memory."""
    head = io.BytesIO(memoryview(content)[:_NPY_HEAD])
    version = np.lib.format.read_magic(head)
    if version not in _NPY_HEADERS:
        raise ValueError(f"version {version[0]}.{version[1]} of .npy is none of 1.0, 2.0")
    shape, fortran_order, dtype = _NPY_HEADERS[version](head)
    if dtype.hasobject:
        raise ValueError("an array holds Python objects, which are not loaded; write text as array.astype(str)")
    held = len(content) - head.tell()
    if math.prod(shape) * dtype.itemsize != held or max(shape, default=0) > limit:
        raise ValueError(f"{held} bytes are not an array of {dtype} {list(shape)}")
    array = np.frombuffer(content, dtype, math.prod(shape), head.tell())
    return array.reshape(shape, order="F" if fortran_order else "C")


def read_json(path: Path, maker: str) -> Any:
    """Reads a JSON file.

    Args:
        path: Path of the file.
        maker: Command that writes it, for the message.

    Raises:
        UnreadableFile: The file is missing or cannot be read.
        DamagedFile: The file is too large or is not JSON.
    """
    try:
        return json.loads(read_bounded(path, _MAX_JSON_BYTES))
    except FileNotFoundError as error:
        raise UnreadableFile(f"{path}: no such file; `{maker}` writes it") from error
    except (OSError, ValueError, RecursionError) as error:
        kind = UnreadableFile if isinstance(error, OSError) else DamagedFile
        raise kind(f"{path}: cannot be read as JSON: {' '.join(str(error).split())}") from error


def read_bounded(path: Path, max_bytes: int) -> str:
    """Reads the UTF-8 text of a regular file.

    Raises:
        OSError: It does not exist, or is not a regular file.
        ValueError: It is larger than `max_bytes`, or is not UTF-8.
    """
    if (size := regular_size(path)) > max_bytes:
        raise ValueError(f"has {size} bytes, allowed are {max_bytes}")
    return path.read_text(encoding="utf-8")


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads the mapping in a YAML file without validating it; an empty file gives an empty mapping.

    Raises:
        InputError: The file is missing or is not a YAML mapping, or a mapping contains a key twice.
    """
    try:
        size = regular_size(Path(path))
        if size > _MAX_YAML_BYTES:
            raise InputError(f"{path}: has {size} bytes, a YAML file may have at most {_MAX_YAML_BYTES}")
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from error
    try:
        content = yaml.load(text, _YamlLoader)  # a SafeLoader
    except _RefusedYaml as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # PyYAML can raise anything for a value that does not match its tag
        raise InputError(f"{path}: is not valid YAML: {printable(' '.join(str(error).split()))}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: contains a {type(content).__name__}, expected a mapping of fields")
    return content


def cache_folder() -> Path:
    """Folder of plans and compiled programs: `$XDG_CACHE_HOME/jaxmia`, by default `~/.cache/jaxmia`.

    Because libraries are loaded from it, a relative path is ignored, as the XDG specification requires, and a folder
    that is not the user's own is not used. If there is none, as in a container, a temporary folder of this process is
    used.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        folder = (given if given.is_absolute() else Path.home() / ".cache") / "jaxmia"
    except RuntimeError:
        return _temporary_cache()
    return folder if _is_own(folder) else _temporary_cache()


def _is_own(folder: Path) -> bool:
    """Whether owner and mode of a folder keep others from writing to it; it need not exist."""
    try:
        state = folder.stat()
    except OSError:
        return True
    return state.st_uid == os.geteuid() and not state.st_mode & stat.S_IWOTH


@functools.cache
def _temporary_cache() -> Path:
    # The name is unpredictable, since libraries are loaded from the folder.
    folder = Path(tempfile.mkdtemp(prefix="jaxmia-cache-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class _RefusedYaml(yaml.YAMLError):
    """Valid YAML that is not allowed in a configuration."""


class _YamlLoader(yaml.SafeLoader):
    """Safe loader that rejects equal keys, of which PyYAML's own silently keeps the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Checked here, where keys are as written in the file; later, merges (<<) have added inherited ones.
        mapping = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in mapping.value if isinstance(key, yaml.ScalarNode)):
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in seen:
                raise _RefusedYaml(
                    f"line {line}: {printable(key.value)!r} was given before, in line {seen[name]}; keep one"
                )
            seen[name] = line
        return mapping

    def get_single_node(self) -> yaml.Node | None:
        root = super().get_single_node()
        if root is not None:
            _count_yaml_nodes(root, {})
        return root


def _count_yaml_nodes(node: yaml.Node, counted: dict[yaml.Node, int]) -> int:
    """Number of nodes once all aliases (and merges, <<) are expanded."""
    if node not in counted:
        counted[node] = _MAX_YAML_NODES  # a node that contains itself is met again before it is counted
        below = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        parts = [] if isinstance(node, yaml.ScalarNode) else below
        counted[node] = 1 + sum(_count_yaml_nodes(part, counted) for part in parts)
    if counted[node] > _MAX_YAML_NODES:
        raise _RefusedYaml(
            f"line {node.start_mark.line + 1}: contains more than {_MAX_YAML_NODES:,} values with all aliases expanded"
        )
    return counted[node]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
