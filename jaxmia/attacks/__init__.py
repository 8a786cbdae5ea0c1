"""Membership inference attacks on logit margins, in plain NumPy."""

from jaxmia.attacks.adaptive import Adaptive
from jaxmia.attacks.alignment import Aligned, misaligned, misalignment
from jaxmia.attacks.base import Base
from jaxmia.attacks.bavaria import Bavaria
from jaxmia.attacks.calibrated import Calibrated
from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.fits import sample_fits
from jaxmia.attacks.fusion import PerClass, RankFusion
from jaxmia.attacks.incomplete import lacking, score_all
from jaxmia.attacks.lira import LiraOffline, LiraOnline
from jaxmia.attacks.multivariate import LiraMultivariate
from jaxmia.attacks.protocol import Attack, check_attack, scores_of
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
    "check_attack",
    "lacking",
    "misaligned",
    "misalignment",
    "sample_fits",
    "score_all",
    "scores_of",
]
