"""How JAX sees this machine."""

import ctypes
import os
import sys
from contextlib import suppress
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxmia.config import EnsembleConfig, Recipe
from jaxmia.errors import InputError
from jaxmia.files import cache_folder
from jaxmia.provenance import digest, processor

Device: TypeAlias = Any
"""A `jax.Device`, which type checkers do not take for a type."""

_MOST_CPU_DEVICES = 8
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def prepare_devices() -> None:
    """Makes JAX ready to train ensembles; later than JAX's first use of a device it leaves the devices as they are.

    Each core (up to eight) becomes a CPU device of its own: models spread over them need not wait for each other at
    every small operation, as the threads of one device do. Compiled programs are kept in `cache_folder`. Memory that
    is freed stays with the process.
    """
    _keep_freed_memory()
    if getattr(jax.config, "jax_num_cpu_devices", -1) == -1 and "host_platform_device_count" not in os.environ.get(
        "XLA_FLAGS", ""
    ):
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", min(core_count(), _MOST_CPU_DEVICES))
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        # Programs for one CPU may not run on another that shares the home folder.
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / f"xla-{digest(processor().encode())}"))


def _keep_freed_memory() -> None:
    """Has glibc keep what is freed: the gigabyte that a step works in would else come from the system each time.

    Its pages would each be cleared and mapped anew, a fifth of a step of a small ResNet. One arena, since the heaps of
    the others are too small for it.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_ARENA_MAX, 1)


def core_count() -> int:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def make_devices(section: EnsembleConfig) -> tuple[Device, ...]:
    """The local devices that the configuration asks for.

    Raises:
        InputError: There are fewer.
    """
    local = jax.local_devices()
    if section.devices != "all" and section.devices > len(local):
        raise InputError(f"ensemble.devices: {section.devices} asked for, {len(local)} found ({local[0].device_kind})")
    return tuple(local if section.devices == "all" else local[: section.devices])


def compute_dtype(shadow: Recipe, device: Device) -> jnp.dtype:
    """float32 or bfloat16, as asked; `auto` is bfloat16 where the device multiplies it natively."""
    if shadow.precision != "auto":
        return jnp.dtype(shadow.precision)
    return jnp.dtype(jnp.bfloat16 if _has_bfloat16(device) else jnp.float32)


def _has_bfloat16(device: Device) -> bool:
    """True on TPUs and on NVIDIA GPUs from compute capability 8.0 (Ampere) on."""
    if device.platform == "tpu":
        return True
    capability = getattr(device, "compute_capability", None)
    return device.platform in ("gpu", "cuda") and capability is not None and float(capability) >= 8.0
