"""Announces the configuration that each process in a run directory trains by, so that models of two are not mixed."""

import json
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxmia.errors import InputError, UnreadableFile, printable
from jaxmia.files import read_json, write_text
from jaxmia.runs.claims import Lease, own_lease, parse_lease
from jaxmia.runs.store import describe_difference

_SUFFIX = ".process"
_TRIES = 5
_LONGEST_PAUSE = 0.5


@contextmanager
def presence(folder: Path, cache_key: Mapping[str, Any]) -> Iterator[None]:
    """Announces the configuration of this process during the block, unless another process trains by another one.

    Before the first models are stored, nothing else distinguishes two configurations in one directory. Each process
    announces itself first and then looks for others, so that of two that start at the same moment, at least one sees
    the other. If both do, both withdraw and try again after pauses of random length.

    Args:
        folder: Directory `claims/` of the run.
        cache_key: Everything that the models' margins depend on.

    Raises:
        InputError: Another process trains by another configuration, or the directory cannot be written to.
    """
    lease = own_lease()
    path = folder / f"{lease.token}{_SUFFIX}"
    content = json.dumps({**asdict(lease), "cache_key": cache_key})
    for last in (False,) * (_TRIES - 1) + (True,):
        write_text(path, content)
        conflict = _conflict(folder, path, cache_key)
        if conflict is None:
            break
        path.unlink(missing_ok=True)
        if last:
            raise InputError(conflict)
        time.sleep(random.uniform(0, _LONGEST_PAUSE))
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()


def _conflict(folder: Path, own: Path, cache_key: Mapping[str, Any]) -> str | None:
    """Describes a process of this directory that trains by another configuration; removes those of ended processes."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        if path == own or (found := _read(path)) is None:
            continue
        lease, theirs = found
        if lease.is_dead():
            with suppress(OSError):
                path.unlink()
        elif difference := describe_difference({"cache_key": theirs}, {"cache_key": cache_key}):
            return (
                f"{path}: process {lease.pid} of {lease.host} trains here with another configuration: "
                f"{printable(difference)}; use another --out, or remove this file if that process has ended"
            )
    return None


def _read(path: Path) -> tuple[Lease, Mapping[str, Any]] | None:
    """Reads an announcement; returns None if it has been removed or is not valid."""
    try:
        content = read_json(path, "jaxmia run")
    except UnreadableFile:
        return None
    if not isinstance(content, dict) or not isinstance(cache_key := content.pop("cache_key", None), dict):
        return None
    lease = parse_lease(content)
    return (lease, cache_key) if lease else None
