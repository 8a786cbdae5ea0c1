"""Checks of this machine (versions, devices, memory, files), with a remedy for each problem."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from jaxmia._version import __version__
from jaxmia.errors import InputError
from jaxmia.machine.units import size
from jaxmia.provenance import available_memory, commit, processor

State = Literal["ok", "note", "bad"]

_CUDA13_DRIVER, _CUDA12_DRIVER = 580, 525
_CUDA13_CAPABILITY = 7.5
_OLD = "old GPUs need cuDNN before 9.11: see docs/cluster.md"


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        subject: Subject of the check.
        state: `ok`; `note` for a remark; `bad` for a problem that stops runs or wastes the machine.
        text: Description of what was found.
        remedy: Remedy, if one is needed.
    """

    subject: str
    state: State
    text: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain strings for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver describes it.

    Attributes:
        name: Product name.
        driver: Version of the driver, such as `580.65.06`.
        memory: Memory with its unit, as the driver reports it.
        capability: Compute capability, such as 9.0.
    """

    name: str
    driver: str
    memory: str
    capability: float

    @property
    def extra(self) -> str | None:
        """The extra of jaxmia to install for this GPU; None if the driver is too old for any."""
        driver = int(self.driver.partition(".")[0])
        if driver >= _CUDA13_DRIVER and self.capability >= _CUDA13_CAPABILITY:
            return "cuda13"
        return "cuda12" if driver >= _CUDA12_DRIVER else None


@dataclass(frozen=True)
class Used:
    """The devices that JAX computes on.

    Attributes:
        platform: `cpu`, `gpu`, `tpu`.
        names: Name of each device.
        bytes: Memory that JAX may use on one of them; None if unknown.
    """

    platform: str
    names: tuple[str, ...]
    bytes: int | None


def examine() -> list[Finding]:
    """Checks versions, memory, disk and devices, with a small computation on the device."""
    from jaxmia.models.native.build import description, shortcoming

    found = gpus()
    kernels = [] if found else [check_kernels(shortcoming(), description())]
    return [*check_packages(), *check_memory(), *check_devices(found, used_devices, os.environ), *kernels]


def installed_version(package: str) -> str:
    """Version of an installed package; empty if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def check_packages(version_of: Callable[[str], str] = installed_version) -> list[Finding]:
    """Checks Python, jaxmia, and the versions of the packages that it needs."""
    held = f" ({commit()})" if commit() else ""
    found = [Finding("jaxmia", "ok", f"{__version__}{held}, Python {platform.python_version()}")]
    needed = [Requirement(line) for line in requires("jaxmia") or []]
    versions = {need.name: version_of(need.name) for need in needed if not need.marker}
    for need in needed:
        installed = versions.get(need.name, "")
        if need.marker or (installed and need.specifier.contains(installed, prereleases=True)):
            continue
        text = f"{installed or 'missing'}, required: {need.name}{need.specifier}"
        found.append(Finding(need.name, "bad", text, f"pip install '{need.name}{need.specifier}'"))
    listed = ", ".join(f"{name} {installed}" for name, installed in versions.items() if installed)
    return [*found, Finding("packages", "ok", listed)]


def check_memory() -> list[Finding]:
    """Reports cores, free memory, and free disk space of the working directory."""
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{processor()}; {size(free)} of disk free here"
    available = available_memory()
    return [Finding("machine", "ok", text if available is None else f"{text}; {size(available)} of memory available")]


def check_devices(
    found: list[Gpu],
    use: Callable[[], Used],
    environment: Mapping[str, str],
    version_of: Callable[[str], str] = installed_version,
) -> list[Finding]:
    """Checks that JAX computes on the best available device.

    Args:
        found: GPUs of this machine.
        use: Runs a small computation and returns the devices used, as `used_devices` does.
        environment: Environment variables, which may keep JAX off the GPU.
        version_of: Returns the version of an installed package, empty if it is not installed.
    """
    listed = [Finding("GPU", "ok", f"{gpu.name}, {gpu.memory}, driver {gpu.driver}") for gpu in found]
    try:
        used = use()
    except Exception as error:  # a backend that fails to start can raise anything
        reason = " ".join(str(error).split())[:300]
        return [*listed, Finding("JAX", "bad", f"cannot compute: {reason}", _remedy(found, environment, version_of))]
    memory = "" if used.bytes is None else f", {size(used.bytes)} each"
    text = f"computes on {used.platform}: {', '.join(used.names)}{memory}"
    if used.platform != "cpu":
        return [*listed, Finding("JAX", "ok", text)]
    if found:
        return [*listed, Finding("JAX", "bad", f"{text}; the GPU is not used", _remedy(found, environment, version_of))]
    if Path("/proc/driver/nvidia/version").exists():
        return [Finding("JAX", "note", f"{text}; there is an NVIDIA driver but no visible GPU", _UNSEEN)]
    return [Finding("JAX", "ok", f"{text}; no NVIDIA GPU found")]


def check_kernels(shortcoming: str | None, description: str) -> Finding:
    """Checks whether the CPU kernels are as fast as they can be.

    Args:
        shortcoming: Why they are not; None if they are.
        description: Their instructions and compiler.
    """
    if shortcoming:
        return Finding("kernels", "note", shortcoming, "install a recent C++ compiler, such as g++")
    return Finding("kernels", "ok", f"compiled for this processor: {description}")


_UNSEEN = "ask the scheduler for a GPU, or give the container one (docker run --gpus all, apptainer exec --nv)"


def gpus() -> list[Gpu]:
    """Lists the NVIDIA GPUs that the driver shows; empty without a driver."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (tuple(cell.strip() for cell in line.split(",")) for line in text.splitlines())
    return [Gpu(name, driver, memory, float(capability)) for name, driver, memory, capability in rows]


def used_devices() -> Used:
    """Runs a matrix product and a convolution on the default device, and returns the devices.

    Raises:
        RuntimeError: A library is missing or does not fit the device, or the numbers are wrong.
    """
    import jax
    import jax.numpy as jnp

    ones = jnp.ones((64, 64))
    image = jnp.ones((1, 8, 8, 4))
    kernel = jnp.ones((1, 1, 4, 4))
    moved = jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    if float((ones @ ones)[0, 0]) != 64 or float(moved[0, 0, 0, 0]) != 4:
        raise RuntimeError("a matrix product of ones gave wrong numbers")
    devices = jax.local_devices()
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    return Used(devices[0].platform, tuple(device.device_kind for device in devices), limit)


def check_file(field: str, path: Path | None, read: Callable[[Path], str]) -> Finding:
    """Checks a file of the configuration: whether it is set and can be read, its size and its content.

    Args:
        field: Name in the configuration.
        path: The file.
        read: Describes its content, or raises `InputError`.
    """
    if path is None:
        return Finding(field, "bad", "not set", f"set it in the configuration or with --{field} FILE")
    try:
        return check_field(field, lambda: f"{path}, {size(path.stat().st_size)}: {read(path)}")
    except OSError as error:
        return Finding(field, "bad", f"{path}: cannot be read: {error.strerror}")


def check_field(field: str, look: Callable[[], str]) -> Finding:
    """Checks a field of the configuration; `look` describes what it amounts to, or raises `InputError`."""
    try:
        return Finding(field, "ok", look())
    except InputError as error:
        return Finding(field, "bad", str(error))


def _remedy(found: list[Gpu], environment: Mapping[str, str], version_of: Callable[[str], str]) -> str:
    if not found:
        return "pip install --force-reinstall -c constraints.txt jax jaxlib"
    if "cpu" in environment.get("JAX_PLATFORMS", ""):
        return "unset JAX_PLATFORMS, which keeps JAX on the CPU"
    extra = found[0].extra
    if extra is None:
        return f"update the driver {found[0].driver} to {_CUDA12_DRIVER} or newer"
    if not version_of(f"jax-{extra}-plugin"):
        install = f"pip install -c constraints.txt -e '.[{extra}]'"
        return f"{install} ({_OLD})" if found[0].capability < _CUDA13_CAPABILITY else install
    if environment.get("LD_LIBRARY_PATH"):
        return "unset LD_LIBRARY_PATH, which may put other CUDA libraries before JAX's own"
    return f"pip install --force-reinstall -c constraints.txt -e '.[{extra}]'" + (
        f" ({_OLD})" if found[0].capability < _CUDA13_CAPABILITY else ""
    )
