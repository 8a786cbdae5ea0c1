"""Provenance of results: versions, device, commit, and digests of the inputs."""

import hashlib
import platform
import resource
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from jaxmia._version import __version__

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


def origin() -> dict[str, Any]:
    """Versions, device and commit that a result is produced with, as plain JSON."""
    import jax

    device = jax.local_devices()[0]
    return {
        "jaxmia": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "platform": device.platform,
        "device": device.device_kind if device.platform != "cpu" else processor(),
        "devices": jax.local_device_count(),
        "host": platform.node(),
    }


def processor() -> str:
    """Name of this machine's processor and its number of cores, as far as the system reports them."""
    lines = _cpu_lines()
    if lines is None:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def instruction_set() -> str:
    """Instruction set of this machine's processor, by which compiled code is cached; else the processor's family."""
    return next((line for line in _cpu_lines() or () if line.startswith(("flags", "Features"))), platform.machine())


def _cpu_lines() -> list[str] | None:
    """Lines of Linux's `/proc/cpuinfo`; None on other systems."""
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None


def commit() -> str | None:
    """Commit of jaxmia's own checkout, with `+` appended if files were modified; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        tracked = _git(folder, "ls-files", "__init__.py")
        return (
            head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "") if tracked else None
        )
    except (OSError, subprocess.SubprocessError):
        return None


def digest(*parts: np.ndarray | bytes) -> str:
    """Returns a short hash of arrays (dtype, shape and bytes) and byte strings, as 16 hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype.str}{part.shape}".encode())
            part = np.ascontiguousarray(part).data.cast("B") if part.size else b""
        total.update(part)
    return total.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Returns a short hash of a file's bytes, as 16 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def available_memory() -> int | None:
    """Bytes of main memory that this process may still take, within its own limit too; None if unknown."""
    available: list[int] = []
    with suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min([*available, *([] if limit == resource.RLIM_INFINITY else [limit])], default=None)
