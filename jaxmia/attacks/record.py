"""Attacks as plain data, from which those of the catalogue can be rebuilt."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeAlias, get_args, get_type_hints

from jaxmia.attacks.alignment import Aligned
from jaxmia.attacks.catalogue import standard_attacks
from jaxmia.attacks.fusion import PerClass, RankFusion
from jaxmia.attacks.protocol import Attack
from jaxmia.errors import InputError, printable

Scalar: TypeAlias = bool | int | float | str | None
Parameter: TypeAlias = "AttackRecord | tuple[AttackRecord, ...] | Scalar | tuple[Scalar, ...]"


@dataclass(frozen=True)
class AttackRecord:
    """An attack as plain data.

    Attributes:
        kind: Class of the attack: a bare name in the catalogue, `package.module:Class` for the user's own.
        parameters: Fields of the dataclass; attacks that it is composed of are records in turn.
    """

    kind: str
    parameters: dict[str, Parameter]


def record_attack(attack: Attack) -> AttackRecord:
    """Records the class and the parameters of an attack."""
    kind = type(attack)
    known = _kinds().get(kind.__name__) is kind
    name = kind.__name__ if known else f"{kind.__module__}:{kind.__qualname__}"
    return AttackRecord(name, {field: _record(value) for field, value in _parameters(attack)})


def rebuild_attack(record: AttackRecord) -> Attack | None:
    """Rebuilds the attack that a record describes; returns None if it is or contains one of the user's own.

    Nothing is imported, since a record may come from an untrusted file.

    Raises:
        InputError: A class is not in the catalogue, or does not take these parameters.
    """
    own = any(":" in part.kind for part in _records(record))
    return None if own else _rebuild(record)


def _kinds() -> dict[str, type]:
    """Classes that may be rebuilt, by name: those of the standard attacks and of their components."""
    found: set[type] = {Aligned, PerClass, RankFusion}
    for attack in standard_attacks():
        found.update(type(part) for part in _parts(attack))
    return {kind.__name__: kind for kind in sorted(found, key=lambda kind: kind.__name__)}


def _parts(attack: Attack) -> Iterator[Attack]:
    """The attack and all attacks that it is composed of."""
    yield attack
    for _, value in _parameters(attack):
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Attack):
                yield from _parts(part)


def _parameters(attack: Attack) -> list[tuple[str, Any]]:
    if not is_dataclass(attack):
        return []
    return [(field.name, getattr(attack, field.name)) for field in fields(attack) if field.init]


def _record(value: Any) -> Parameter:
    if isinstance(value, Attack):
        return record_attack(value)
    if isinstance(value, list | tuple):
        attacks = [part for part in value if isinstance(part, Attack)]
        return tuple(map(record_attack, attacks)) if len(attacks) == len(value) else tuple(map(_scalar, value))
    return _scalar(value)


def _scalar(value: Any) -> Scalar:
    return value if isinstance(value, bool | int | float | str | None) else repr(value)


def _records(record: AttackRecord) -> Iterator[AttackRecord]:
    """The record and all records within."""
    yield record
    for value in record.parameters.values():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, AttackRecord):
                yield from _records(part)


def _rebuild(record: AttackRecord) -> Attack:
    kinds = _kinds()
    if record.kind not in kinds:
        raise InputError(f"attack_record.kind: {printable(record.kind)!r} is unknown; allowed are {', '.join(kinds)}")
    kind = kinds[record.kind]
    given = {name: _rebuild_parameter(value) for name, value in record.parameters.items()}
    _check_attacks(kind, given)
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"attack_record.parameters: {record.kind}: {printable(str(error))}") from error


def _rebuild_parameter(value: Parameter) -> Any:
    if isinstance(value, AttackRecord):
        return _rebuild(value)
    return tuple(map(_rebuild_parameter, value)) if isinstance(value, tuple) else value


def _check_attacks(kind: type, given: dict[str, Any]) -> None:
    """Checks that parameters that must be attacks are; the classes check their other parameters themselves."""
    for name, hint in get_type_hints(kind).items():
        several = Attack in get_args(hint)
        if name in given and (several or hint is Attack):
            value = given[name]
            attacks = value if several and isinstance(value, tuple) else (value,)
            if several != isinstance(value, tuple) or not all(isinstance(part, Attack) for part in attacks):
                raise InputError(
                    f"attack_record.parameters: {kind.__name__}: {name} is {printable(repr(value))}, expected "
                    + ("attacks" if several else "an attack")
                )
