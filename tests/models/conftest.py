import os
from pathlib import Path

import pytest
from filelock import FileLock

from jaxmia.models.native.build import unavailable

# The modules here ask for the kernels when pytest's workers collect them, all at one time: one worker compiles them.
with FileLock(Path(os.environ["XDG_CACHE_HOME"]) / "kernels.lock"):
    unavailable()


@pytest.fixture(autouse=True)
def nothing_is_promoted_unasked(strict_promotion: None) -> None:
    """Holds for every test here."""
