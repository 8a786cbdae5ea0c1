"""Import of the user's own code, named as `package.module:name`."""

import importlib
import sys
from pathlib import Path
from typing import Any

from jaxmia.errors import InputError, one_line


def is_plugin(name: str) -> bool:
    """Whether a name refers to the user's code rather than to something built in."""
    return ":" in name


def import_plugin(name: str, field: str) -> Any:
    """Imports the object that a name refers to; its module may be in the working directory.

    By naming it, the user allows its code to run.

    Args:
        name: `package.module:name`.
        field: Field of the configuration that contains the name, for messages.

    Raises:
        InputError: The module cannot be imported or does not define the name.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the user's code, which can raise anything
        raise InputError(
            f"{field}: cannot import {name!r}: {one_line(error)}; expected package.module:name, in the working "
            "directory or on PYTHONPATH"
        ) from error
