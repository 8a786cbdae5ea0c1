"""Membership inference with ensembles of shadow models trained together."""

__version__ = "0.1.0"
