"""What stands for the things that a file of `torch.save` holds."""

from dataclasses import dataclass

import numpy as np
import torch

from jaxmia.errors import printable


class StoredObject:
    """Stands for an instance of a class named in a file.

    Attributes:
        attributes: What the file gives it; None where it gives nothing.
    """

    attributes: object = None


class StoredArray:
    """A NumPy array of a file.

    Attributes:
        value: The array; None until the file says what it is.
    """

    value: np.ndarray | None = None


@dataclass(frozen=True)
class Unreadable:
    """Stands for what has no plain value.

    Attributes:
        kind: What it is, in words.
    """

    kind: str


@dataclass(frozen=True)
class Global:
    """A name that a pickle refers to."""

    name: str


@dataclass(frozen=True, eq=False)
class Storage:
    """The bytes of a record, and the type that its numbers have."""

    content: bytearray
    dtype: torch.dtype


@dataclass
class Dtype:
    """A NumPy type, to which a pickle adds its byte order."""

    value: np.dtype


def kind_of(value: object) -> str:
    """What a value from a file is, in a word or two."""
    if isinstance(value, Unreadable | Global):
        return printable(value.kind if isinstance(value, Unreadable) else value.name)
    if isinstance(value, torch.Tensor):
        return f"tensor of {value.dtype}".replace("torch.", "")
    return type(value).__name__
