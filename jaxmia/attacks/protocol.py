"""The protocol that every attack implements."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from jaxmia.attacks.evidence import Evidence
from jaxmia.errors import InputError, InvalidScores


@runtime_checkable
class Attack(Protocol):
    """A callable that maps evidence to one score per sample, usually a frozen dataclass of its parameters.

    Any callable object with a `name` is an attack; nothing is inherited or registered:

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
        """Short name, unique for the attack and its parameters, such as `lira-online-shrunk`."""
        ...

    def __call__(self, evidence: Evidence) -> Float64[np.ndarray, " sample"]:
        """Computes the scores; higher means member."""
        ...


def check_attack(candidate: object, field: str) -> Attack:
    """Checks that a candidate is an attack, and returns it.

    Args:
        candidate: Object given as an attack.
        field: Field in which it was given, for messages.

    Raises:
        InputError: It cannot be called, or its name is not printable text without spaces and slashes.

    >>> check_attack(print, "attack.name")
    Traceback (most recent call last):
    jaxmia.errors.InputError: attack.name: a builtin_function_or_method is not an attack, expected an object with a \
name that gives scores when called with evidence
    """
    if isinstance(candidate, type) or not isinstance(candidate, Attack):
        kind = f"class {candidate.__name__}" if isinstance(candidate, type) else type(candidate).__name__
        raise InputError(
            f"{field}: a {kind} is not an attack, expected an object with a name that gives scores when called with "
            "evidence"
        )
    name = candidate.name
    if not isinstance(name, str) or not name or not name.isprintable() or set(name) & set(" /"):
        raise InputError(
            f"{field}: a {type(candidate).__name__} is named {name!r}, expected printable text without spaces and "
            "slashes"
        )
    return candidate


def scores_of(attack: Attack, evidence: Evidence) -> Float64[np.ndarray, " sample"]:
    """Calls an attack and checks that it returns one number per sample.

    Raises:
        InvalidScores: The result has another length or type or contains NaN.
        InputError: The attack itself raises it.
    """
    try:
        scores, samples = np.asarray(attack(evidence)), len(evidence.labels)
    except Exception as error:
        error.add_note(f"in the attack {attack.name}, called with {evidence}")
        raise
    if scores.shape != (samples,) or scores.dtype.kind not in "fiub":
        raise InvalidScores(
            f"attack {attack.name}: gives {scores.dtype} of shape {scores.shape}, expected one number for each of "
            f"{samples} samples"
        )
    missing = np.flatnonzero(np.isnan(scores))
    if len(missing):
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise InvalidScores(f"attack {attack.name}: gives NaN for sample {missing[0]}{others}, expected a number")
    return scores.astype(np.float64)


def check_choice(attack: Attack, parameter: str, allowed: tuple[str, ...]) -> None:
    """Checks that a parameter of an attack is one of the allowed words.

    Raises:
        InputError: It is not.
    """
    value = getattr(attack, parameter)
    if value not in allowed:
        raise InputError(f"{type(attack).__name__}: {parameter}: {value!r} is none of {', '.join(allowed)}")
