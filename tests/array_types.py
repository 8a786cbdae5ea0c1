"""The checker of arrays against their annotations, by jaxtyping's hook for pytest; pyproject.toml names it."""

import inspect
from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def typechecker(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks arguments and results that are arrays or hold some; all else is left to pyright."""
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if _holds_arrays(hint)}
    return beartype(function) if function.__annotations__ else function


def _holds_arrays(hint: Any) -> bool:
    return (inspect.isclass(hint) and issubclass(hint, AbstractArray)) or any(map(_holds_arrays, get_args(hint)))
