"""Sets up JAX's devices and selects those to train on."""

import ctypes
import os
import sys
from contextlib import suppress
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import jaxlib.version

from jaxmia.config import EnsembleConfig, Recipe
from jaxmia.data.kinds import FEATURES, Kind
from jaxmia.errors import InputError
from jaxmia.files import cache_folder
from jaxmia.models import NETWORKS
from jaxmia.models.native.build import multiplies_bfloat16, warn_of_shortcoming
from jaxmia.provenance import available_memory, digest, processor

Device: TypeAlias = Any
"""A `jax.Device`, which type checkers do not accept as a type."""

_MOST_CPU_DEVICES = 8
_SUMS_BY_XLA_ITSELF = "--xla_cpu_experimental_ynn_fusion_type=-reduce"
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def prepare_devices() -> None:
    """Prepares JAX for training ensembles; devices can only be configured before JAX first uses one.

    Each core (up to eight) becomes a separate CPU device, so that models sharded over them need not wait for each other
    at every small operation, as the threads of a single device do. Compiled programs are cached in `cache_folder`.
    Freed memory stays with the process.
    """
    _keep_freed_memory()
    _avoid_crashing_sums()
    if getattr(jax.config, "jax_num_cpu_devices", -1) == -1 and "host_platform_device_count" not in os.environ.get(
        "XLA_FLAGS", ""
    ):
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", min(core_count(), _MOST_CPU_DEVICES))
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        # Programs compiled for one CPU may not run on another that shares the home directory.
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / f"xla-{digest(processor().encode())}"))
        # JAX keeps only what took a second to compile, but twenty small programs take two seconds in each process.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _avoid_crashing_sums() -> None:
    """Makes XLA compute sums itself.

    YNNPACK, which computes them since jaxlib 0.10.2, ends the process with a segmentation fault on some CPUs where
    arrays have seven or more axes (https://github.com/jax-ml/jax/issues/40412). `XLA_FLAGS` may also name a file of
    flags, to which none can be added.
    """
    flags = os.environ.get("XLA_FLAGS", "").strip()
    settable = jaxlib.version.__version_info__ >= (0, 10, 2) and "ynn_fusion_type" not in flags
    if settable and (not flags or flags.startswith("-")):
        os.environ["XLA_FLAGS"] = f"{flags} {_SUMS_BY_XLA_ITSELF}".strip()


def _keep_freed_memory() -> None:
    """Makes glibc keep freed memory, so that the gigabyte that a step works in is not requested again at each step.

    Clearing and mapping its pages again takes a fifth of a training step of a small ResNet. A single arena is used,
    since the heaps of further arenas are too small.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_ARENA_MAX, 1)


def core_count() -> int:
    """Number of cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def make_devices(section: EnsembleConfig) -> tuple[Device, ...]:
    """Selects the configured number of local devices.

    Raises:
        InputError: There are fewer devices than configured.
    """
    local = jax.local_devices()
    if section.devices != "all" and section.devices > len(local):
        raise InputError(f"ensemble.devices: {section.devices} requested, {len(local)} found ({local[0].device_kind})")
    return tuple(local if section.devices == "all" else local[: section.devices])


def device_memory(device: Device) -> int | None:
    """Total number of bytes that arrays on a device may take; None if unknown."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return available_memory() if limit is None and device.platform == "cpu" else limit


def compute_dtype(shadow: Recipe, device: Device, kind: Kind) -> jnp.dtype:
    """The configured dtype, float32 or bfloat16; `auto` selects bfloat16 where the device is faster with it.

    It leaves features in float32, since bfloat16 would make nearby values of a column equal.
    """
    if shadow.precision != "auto":
        return jnp.dtype(shadow.precision)
    narrow = kind is not FEATURES and _prefers_bfloat16(shadow, device)
    return jnp.dtype(jnp.bfloat16 if narrow else jnp.float32)


def _prefers_bfloat16(shadow: Recipe, device: Device) -> bool:
    """True on TPUs, on NVIDIA GPUs from compute capability 8.0 (Ampere) on, and on CPUs whose kernels multiply it.

    On CPUs that is for networks whose layers the kernels compute: XLA itself computes bfloat16 slowly there.
    """
    if device.platform == "tpu":
        return True
    if device.platform == "cpu":
        if not _in_kernels(shadow):
            return False
        warn_of_shortcoming()
        return multiplies_bfloat16()
    capability = getattr(device, "compute_capability", None)
    return device.platform in ("gpu", "cuda") and capability is not None and float(capability) >= 8.0


def _in_kernels(shadow: Recipe) -> bool:
    """Whether the CPU kernels compute all hidden layers of a network, but for what XLA is fast in with bfloat16."""
    network = NETWORKS.get(shadow.architecture)
    if network is None:
        return False
    return network.convolutional or (shadow.activation == "relu" and shadow.norm != "layer")
