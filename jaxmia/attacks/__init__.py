"""Membership inference attacks on logit margins: one file each, one protocol, plain NumPy."""

from jaxmia.attacks.calibrated import Calibrated
from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.lira import LiraOffline, LiraOnline
from jaxmia.attacks.protocol import Attack
from jaxmia.attacks.threshold import Confidence, Loss, Margin

__all__ = ["Attack", "Calibrated", "Confidence", "Evidence", "LiraOffline", "LiraOnline", "Loss", "Margin"]
