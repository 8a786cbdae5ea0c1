"""Which training recipe makes shadows that look like the target."""

from jaxmia.matching.search import match

__all__ = ["match"]
