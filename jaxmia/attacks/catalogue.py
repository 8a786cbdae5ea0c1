"""Catalogue of the attacks that can be named, and of those that a run compares."""

import difflib

from jaxmia.attacks.adaptive import Adaptive
from jaxmia.attacks.alignment import Aligned
from jaxmia.attacks.base import Base
from jaxmia.attacks.bavaria import Bavaria
from jaxmia.attacks.calibrated import Calibrated
from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.fusion import PerClass
from jaxmia.attacks.lira import LiraOffline, LiraOnline
from jaxmia.attacks.multivariate import LiraMultivariate
from jaxmia.attacks.protocol import Attack, check_attack
from jaxmia.attacks.rmia import Rmia
from jaxmia.attacks.signal import Views
from jaxmia.attacks.threshold import Confidence, Loss, Margin
from jaxmia.errors import InputError
from jaxmia.plugins import import_plugin, is_plugin

AUTO = "auto"

_SUGGESTED = 3


def standard_attacks() -> list[Attack]:
    """Lists every attack that can be named, simple ones first, including forms that `auto` does not compare."""
    further = [
        LiraOffline("per-example"),
        LiraOnline("global", "identity"),
        LiraOnline("tied"),
        LiraOnline("per-example"),
        LiraOnline("shrunk", "each"),
        Rmia(offline=0.3),
        Rmia(offline=0.8),
        Base(),
        Adaptive("each"),
    ]
    return list(dict.fromkeys([*_candidates("mean"), *_candidates("fisher"), *further]))


def distinct_attacks(evidence: Evidence) -> list[Attack]:
    """Lists the standard attacks that `auto` compares and that a run records, simple ones first.

    Several views are combined by Fisher's discriminant: if a model was not trained on shifted or mirrored images, their
    plain mean ruins an attack.
    """
    return _candidates("fisher" if len(evidence.target) > 1 else "mean")


def _candidates(views: Views) -> list[Attack]:
    return [
        Loss(),
        Confidence(),
        Margin(),
        Calibrated(views),
        PerClass(Calibrated(views)),
        LiraOffline("global", views=views),
        LiraOffline("shrunk", views=views),
        LiraOnline("global", views),
        LiraOnline("tied-shrunk", views),
        LiraOnline("shrunk", views),
        Base(0.3, 2.0, views),
        Base(0.95, 2.0, views),
        Rmia(),
        Base(None, 2.0, views),
        Bavaria("normal", views),
        Bavaria("student", views),
        LiraMultivariate(),
        Adaptive(views),
        Aligned(Adaptive(views)),
    ]


def named_attack(name: str) -> Attack:
    """Returns the standard attack of a name, or the user's own for a name `package.module:Class`.

    Raises:
        InputError: The name is unknown, or what it names is not an attack.

    >>> named_attack("lira-online-tied")
    LiraOnline(variance='tied', views='mean')
    """
    return own_attack(name, "attack.name") if is_plugin(name) else standard_attack(name)


def standard_attack(name: str) -> Attack:
    """Returns the standard attack of a name; imports nothing, so the name may come from an untrusted file.

    Raises:
        InputError: The name is unknown.
    """
    attacks = {attack.name: attack for attack in standard_attacks()}
    if name not in attacks:
        raise InputError(f"attack.name: {name!r} {describe_unknown(name)}")
    return attacks[name]


def describe_unknown(name: str) -> str:
    """Explains why a name is neither a standard attack's nor `package.module:Class`; empty if it is one.

    >>> describe_unknown("lira-online-tide").partition("?")[0]
    "is unknown; did you mean 'lira-online-tied'"
    >>> describe_unknown("rmia").partition("?")[0]
    "is unknown; did you mean 'rmia-online' or 'rmia-offline-0.3' or 'rmia-offline-0.8'"
    >>> describe_unknown("LiRA").partition("?")[0]
    "is unknown; did you mean 'lira-offline-global' or 'lira-offline-shrunk' or 'lira-online-global'"
    """
    names = attack_names()
    if name in names or is_plugin(name):
        return ""
    lower = name.lower()
    close = [known for known in names if known.startswith(f"{lower}-")] or difflib.get_close_matches(lower, names, n=1)
    hint = f"did you mean {' or '.join(map(repr, close[:_SUGGESTED]))}? " if close else ""
    return f"is unknown; {hint}allowed are {AUTO}, package.module:Class and the names in docs/attacks.md"


def own_attack(path: str, field: str) -> Attack:
    """Imports the user's attack `package.module:name`, an attack or a class that is called without arguments.

    Args:
        path: Import path of the attack.
        field: Field of the configuration that names it, for messages.

    Raises:
        InputError: It cannot be imported, needs arguments, is not an attack, or has the name of a standard one.
    """
    found = import_plugin(path, field)
    if isinstance(found, type):
        try:
            found = found()
        except TypeError as error:
            raise InputError(f"{field}: {path!r} cannot be called without arguments: {error}") from error
    attack = check_attack(found, f"{field}: {path!r}")
    if attack.name in (AUTO, *attack_names()):
        raise InputError(f"{field}: {path!r} is named {attack.name!r}, which is the name of a standard attack")
    return attack


def attack_names() -> list[str]:
    """Values of `attack.name`, apart from `auto` and the user's own attacks."""
    return [attack.name for attack in standard_attacks()]
