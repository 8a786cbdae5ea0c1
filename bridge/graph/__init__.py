"""Converts PyTorch classifiers to pure functions in JAX, through `torch.export` and a table of operators."""

from bridge.graph.convert import convert_exported, convert_module
from bridge.graph.network import ConvertedNetwork

__all__ = ["ConvertedNetwork", "convert_exported", "convert_module"]
