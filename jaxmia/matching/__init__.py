"""Finds the training recipe whose shadow models resemble the target most."""

from jaxmia.matching.search import match

__all__ = ["match"]
