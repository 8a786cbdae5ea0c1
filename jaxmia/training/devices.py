"""How JAX sees this machine."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import jax

from jaxmia.provenance import digest, processor

Device: TypeAlias = Any
"""A `jax.Device`, which type checkers do not take for a type."""

_MOST_CPU_DEVICES = 8


def prepare_devices() -> None:
    """Makes JAX ready to train ensembles; later than JAX's first use of a device it leaves the devices as they are.

    Each core (up to eight) becomes a CPU device of its own: models spread over them need not wait for each other at
    every small operation, as the threads of one device do. Compiled programs are kept in `cache_folder`.
    """
    if getattr(jax.config, "jax_num_cpu_devices", -1) == -1 and "host_platform_device_count" not in os.environ.get(
        "XLA_FLAGS", ""
    ):
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", min(_cores(), _MOST_CPU_DEVICES))
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        # Programs for one CPU may not run on another that shares the home folder.
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / f"xla-{digest(processor().encode())}"))


def _cores() -> int:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def cache_folder() -> Path:
    """Where plans and compiled programs are kept: `$XDG_CACHE_HOME/jaxmia`, by default `~/.cache/jaxmia`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxmia"
