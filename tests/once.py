"""What is made once in a whole run of the tests, for pytest's workers together."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` fills, in the tests' common cache; not to be written to."""
    cache = Path(os.environ["XDG_CACHE_HOME"])
    folder = cache / name
    with FileLock(cache / f"{name}.lock"):
        if not folder.exists():
            unfinished = Path(tempfile.mkdtemp(dir=cache))
            make(unfinished)
            unfinished.rename(folder)
    return folder
