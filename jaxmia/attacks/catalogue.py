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
from jaxmia.attacks.protocol import Attack
from jaxmia.attacks.rmia import Rmia
from jaxmia.attacks.threshold import Confidence, Loss, Margin
from jaxmia.errors import InputError

AUTO = "auto"


def standard_attacks() -> list[Attack]:
    """Every attack that can be named, simple ones first."""
    return [
        Loss(),
        Confidence(),
        Margin(),
        Calibrated(),
        PerClass(Calibrated()),
        LiraOffline("global"),
        LiraOffline("per-example"),
        LiraOffline("shrunk"),
        LiraOnline("global", "identity"),
        LiraOnline("global"),
        LiraOnline("tied"),
        LiraOnline("per-example"),
        LiraOnline("shrunk"),
        LiraOnline("shrunk", "each"),
        Rmia(offline=0.3),
        Rmia(offline=0.8),
        Rmia(),
        Base(),
        Bavaria("normal"),
        Bavaria("student"),
        LiraMultivariate(),
        Adaptive(),
        Adaptive("each"),
        Aligned(Adaptive()),
    ]


_JOINING_VIEWS = (LiraOnline("global", "identity"), LiraOnline("shrunk", "each"), Adaptive("each"))
"""Standard attacks that differ from others in how they join views alone."""


def distinct_attacks(evidence: Evidence) -> list[Attack]:
    """The standard attacks that `auto` chooses from and that a run records: with a single view, none comes twice."""
    attacks = standard_attacks()
    return attacks if len(evidence.target) > 1 else [attack for attack in attacks if attack not in _JOINING_VIEWS]


def named_attack(name: str) -> Attack:
    """The standard attack of that name.

    Raises:
        InputError: There is none.
    """
    attacks = {attack.name: attack for attack in standard_attacks()}
    if name not in attacks:
        close = difflib.get_close_matches(name, attacks, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"attack.name: {name!r} is unknown; {hint}allowed are {AUTO}, {', '.join(attacks)}")
    return attacks[name]


def attack_names() -> list[str]:
    """What `attack.name` may be, beside `auto`."""
    return [attack.name for attack in standard_attacks()]
