"""The attacks that have a name, and which of them a run compares."""

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


def standard_attacks() -> list[Attack]:
    """Every attack that can be named, simple ones first: what `auto` compares, and forms that it does without."""
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
    """The standard attacks that `auto` chooses from and that a run records, simple ones first.

    Several views are weighted by what each tells: where a model saw no shifted or mirrored images in training, their
    plain mean destroys an attack.
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
    """The standard attack of that name, or one's own where the name is `package.module:Class`.

    Raises:
        InputError: There is none, or it is no attack.

    >>> named_attack("lira-online-tied")
    LiraOnline(variance='tied', views='mean')
    """
    return own_attack(name, "attack.name") if is_plugin(name) else standard_attack(name)


def standard_attack(name: str) -> Attack:
    """The standard attack of that name; imports nothing, so that the name may come from a file.

    Raises:
        InputError: There is none.
    """
    attacks = {attack.name: attack for attack in standard_attacks()}
    if name not in attacks:
        raise InputError(f"attack.name: {name!r} {describe_unknown(name)}")
    return attacks[name]


def describe_unknown(name: str) -> str:
    """What is wrong with a name that is neither a standard attack's nor `package.module:Class`; else nothing.

    >>> describe_unknown("lira-online-tide").partition("?")[0]
    "is unknown; did you mean 'lira-online-tied'"
    """
    names = attack_names()
    if name in names or is_plugin(name):
        return ""
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"is unknown; {hint}allowed are {AUTO}, package.module:Class, {', '.join(names)}"


def own_attack(path: str, field: str) -> Attack:
    """The attack that `package.module:name` stands for: an attack itself, or a class that makes one without arguments.

    Args:
        path: What to import.
        field: Field of the configuration that names it, for messages.

    Raises:
        InputError: It cannot be imported, needs arguments, is no attack, or has the name of a standard one.
    """
    found = import_plugin(path, field)
    if isinstance(found, type):
        try:
            found = found()
        except TypeError as error:
            raise InputError(f"{field}: {path!r} cannot be made without arguments: {error}") from error
    attack = check_attack(found, f"{field}: {path!r}")
    if attack.name in (AUTO, *attack_names()):
        raise InputError(f"{field}: {path!r} is named {attack.name!r}, which is the name of a standard attack")
    return attack


def attack_names() -> list[str]:
    """What `attack.name` may be, beside `auto` and attacks of one's own."""
    return [attack.name for attack in standard_attacks()]
