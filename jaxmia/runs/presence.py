"""What the processes in a run directory train, so that none mixes models of another configuration into it."""

import json
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxmia.errors import InputError, printable
from jaxmia.files import read_json, write_text
from jaxmia.runs.claims import Lease, own_lease, parse_lease
from jaxmia.runs.store import describe_difference

_SUFFIX = ".process"
_TRIES = 5
_LONGEST_PAUSE = 0.5


@contextmanager
def presence(folder: Path, cache_key: Mapping[str, Any]) -> Iterator[None]:
    """Announces what this process trains for the duration of the block, unless another process trains something else.

    Before the first models are stored, nothing else tells two configurations in one directory apart. Each process
    announces itself first and looks at the others after that, so that of two which start at the same moment one at
    least sees the other. Where both do, both withdraw and try again after pauses of random length.

    Args:
        folder: Directory `claims/` of the run.
        cache_key: What the models depend on.

    Raises:
        InputError: Another process trains models that depend on something else, or the directory cannot be written to.
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
    """Says which process of this directory trains something else; removes what ended processes have left."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        if path == own or (found := _read(path)) is None:
            continue
        lease, theirs = found
        if lease.is_dead():
            with suppress(OSError):
                path.unlink()
        elif difference := describe_difference({"cache_key": theirs}, {"cache_key": cache_key}):
            return (
                f"{path}: process {lease.pid} of {lease.host} trains here by another configuration: "
                f"{printable(difference)}; use another --out, or remove this file if that process has ended"
            )
    return None


def _read(path: Path) -> tuple[Lease, Mapping[str, Any]] | None:
    """An announcement; None if there is none any more, or it is something else."""
    try:
        content = read_json(path, "jaxmia run")
    except InputError:
        return None
    if not isinstance(content, dict) or not isinstance(cache_key := content.pop("cache_key", None), dict):
        return None
    lease = parse_lease(content)
    return (lease, cache_key) if lease else None
