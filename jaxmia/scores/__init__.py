"""Logit margins and the store that keeps them."""

from jaxmia.scores.margin import logit_margin
from jaxmia.scores.store import Chunk, ScoreStore

__all__ = ["Chunk", "ScoreStore", "logit_margin"]
