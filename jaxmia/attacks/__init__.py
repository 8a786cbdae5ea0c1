"""Membership inference attacks on logit margins: one file each, one protocol, plain NumPy."""

from jaxmia.attacks.adaptive import Adaptive
from jaxmia.attacks.alignment import Aligned, misalignment
from jaxmia.attacks.base import Base
from jaxmia.attacks.bavaria import Bavaria
from jaxmia.attacks.calibrated import Calibrated
from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.fits import sample_fits
from jaxmia.attacks.fusion import PerClass, RankFusion
from jaxmia.attacks.incomplete import lacking, score_all
from jaxmia.attacks.lira import LiraOffline, LiraOnline
from jaxmia.attacks.multivariate import LiraMultivariate
from jaxmia.attacks.protocol import Attack
from jaxmia.attacks.rmia import Rmia
from jaxmia.attacks.threshold import Confidence, Loss, Margin

__all__ = [
    "Adaptive",
    "Aligned",
    "Attack",
    "Base",
    "Bavaria",
    "Calibrated",
    "Confidence",
    "Evidence",
    "LiraMultivariate",
    "LiraOffline",
    "LiraOnline",
    "Loss",
    "Margin",
    "PerClass",
    "RankFusion",
    "Rmia",
    "distinct_attacks",
    "lacking",
    "misalignment",
    "sample_fits",
    "score_all",
    "standard_attacks",
]


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
