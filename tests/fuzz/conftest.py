"""Files that no one would write, against the readers: a result or an `InputError`, and nothing of them is run.

`JAXMIA_FUZZ=20000 pytest tests/fuzz` tries so many inputs of each kind, other ones each time.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from jaxmia.errors import InputError

EXAMPLES = int(os.environ.get("JAXMIA_FUZZ", "150"))
fuzzing = settings(
    max_examples=EXAMPLES,
    derandomize="JAXMIA_FUZZ" not in os.environ,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def read_or_refuse(read: Callable[[], object], path: Path | str = "") -> bool:
    """Whether it was read; the refusal of what was not names the path and is printable lines of bounded length."""
    try:
        read()
    except InputError as error:
        lines = str(error).split("\n")
        assert str(path) in lines[0]
        assert all(line.isprintable() and len(line) < 2000 for line in lines)
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")
