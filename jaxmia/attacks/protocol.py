"""The one thing that every attack is."""

from typing import Protocol, runtime_checkable

import numpy as np

from jaxmia.attacks.evidence import Evidence
from jaxmia.errors import InputError


@runtime_checkable
class Attack(Protocol):
    """A rule that turns evidence into one score for each sample; a frozen dataclass of its parameters."""

    @property
    def name(self) -> str:
        """Short, unique for the attack and its parameters, e.g. `lira-online-shrunk`."""
        ...

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Scores, float64 `[sample]`; higher means member."""
        ...


def check_choice(field: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuses a parameter of an attack that is none of the allowed words.

    Raises:
        InputError: It is not.
    """
    if value not in allowed:
        raise InputError(f"attack.{field}: {value!r} is none of {', '.join(allowed)}")
