"""Limits of this process within which XLA cannot be trusted."""

import resource
from pathlib import Path

from jaxmia.errors import InputError

_RESERVE = 2**28
"""Bytes below the limit from which on an allocation may have failed; threads and heaps take less at once."""


def check_address_space() -> None:
    """Checks that the address space of this process never came close to its limit (`ulimit -v`), if it has one.

    Where an allocation fails, XLA on CPUs may end the process, raise an error, or compute wrong numbers without any.

    Raises:
        InputError: It came close.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return
    peak = _peak_address_space()
    if peak is not None and peak > limit - _RESERVE:
        raise InputError(
            f"memory: this process took {peak >> 20} MiB of address space, and its limit (ulimit -v) is {limit >> 20} "
            f"MiB: with less than {_RESERVE >> 20} MiB left, XLA may compute wrong numbers; raise the limit or lower "
            "ensemble.width, and the same command resumes"
        )


def _peak_address_space() -> int | None:
    """Largest size in bytes that the address space of this process had; None on systems that do not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmPeak:")), None)
