"""Stand-ins for the content of a `torch.save` file."""

from dataclasses import dataclass

import numpy as np
import torch

from jaxmia.errors import printable


class StoredObject:
    """Stand-in for an instance of a class named in a file.

    Attributes:
        attributes: Attributes stored in the file; None if there are none.
    """

    attributes: object = None


class StoredArray:
    """Stand-in for a NumPy array in a file.

    Attributes:
        value: The array; None until its content has been read.
    """

    value: np.ndarray | None = None


@dataclass(frozen=True)
class Unreadable:
    """Stand-in for an object without a plain value.

    Attributes:
        kind: Description of the object.
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
    """A NumPy dtype, whose byte order a pickle sets separately."""

    value: np.dtype


def describe_value(value: object) -> str:
    """Describes the kind of a value from a file in a word or two."""
    if isinstance(value, Unreadable | Global):
        return printable(value.kind if isinstance(value, Unreadable) else value.name)
    if isinstance(value, torch.Tensor):
        return f"tensor of {value.dtype}".replace("torch.", "")
    return type(value).__name__
