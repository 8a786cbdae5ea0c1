"""The one thing that every attack is."""

from typing import Protocol, runtime_checkable

import numpy as np

from jaxmia.attacks.evidence import Evidence
from jaxmia.errors import InputError


@runtime_checkable
class Attack(Protocol):
    """A rule that turns evidence into one score for each sample; best a frozen dataclass of its parameters.

    Any class with a `name` that can be called will do; nothing is inherited or registered:

    >>> class Surprise:
    ...     name = "surprise"
    ...
    ...     def __call__(self, evidence):
    ...         return evidence.target[0] - evidence.out.mean[0]
    >>> isinstance(Surprise(), Attack)
    True
    """

    @property
    def name(self) -> str:
        """Short, unique for the attack and its parameters, e.g. `lira-online-shrunk`."""
        ...

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Scores, float64 `[sample]`; higher means member."""
        ...


def check_attack(candidate: object, field: str) -> Attack:
    """The candidate itself, once it is known to be an attack.

    Args:
        candidate: What a user gave for an attack.
        field: Where it was given, for messages.

    Raises:
        InputError: It cannot be called, or has no name that fits as a key: printable, without spaces and slashes.

    >>> check_attack(print, "attack.name")
    Traceback (most recent call last):
    jaxmia.errors.InputError: attack.name: a builtin_function_or_method is no attack, expected an object with a name \
that gives scores when called with evidence
    """
    if isinstance(candidate, type) or not isinstance(candidate, Attack):
        kind = f"class {candidate.__name__}" if isinstance(candidate, type) else type(candidate).__name__
        raise InputError(
            f"{field}: a {kind} is no attack, expected an object with a name that gives scores when called with "
            "evidence"
        )
    name = candidate.name
    if not isinstance(name, str) or not name or not name.isprintable() or set(name) & set(" /"):
        raise InputError(
            f"{field}: a {type(candidate).__name__} is named {name!r}, expected printable text without spaces and "
            "slashes"
        )
    return candidate


def scores_of(attack: Attack, evidence: Evidence) -> np.ndarray:
    """What the attack gives for the evidence, float64 `[sample]`, once it is known to be one number a sample.

    Raises:
        InputError: It is of another length or type, or holds a NaN; or as the attack.
    """
    scores, samples = np.asarray(attack(evidence)), len(evidence.labels)
    if scores.shape != (samples,) or scores.dtype.kind not in "fiub":
        raise InputError(
            f"attack {attack.name}: gives {scores.dtype} of shape {scores.shape}, expected one number for each of "
            f"{samples} samples"
        )
    missing = np.flatnonzero(np.isnan(scores))
    if len(missing):
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise InputError(f"attack {attack.name}: gives NaN for sample {missing[0]}{others}, expected a number")
    return scores.astype(np.float64)


def check_choice(field: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuses a parameter of an attack that is none of the allowed words.

    Raises:
        InputError: It is not.
    """
    if value not in allowed:
        raise InputError(f"attack.{field}: {value!r} is none of {', '.join(allowed)}")
