"""Whether the C++ kernels are available; pytest's workers, which ask for them at one time, let one of them compile."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from jaxmia.models.native.build import unavailable

with FileLock(Path(os.environ["XDG_CACHE_HOME"]) / "kernels.lock"):
    _reason = unavailable()

needs_kernels = pytest.mark.skipif(_reason is not None, reason=str(_reason))
