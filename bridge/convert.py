"""Converts a PyTorch `state_dict` to an NNX module.

Both frameworks use the same module names, apart from the leaves (`weight` and `kernel`) and the names that a row of
`bridge.networks.TORCH_NETWORKS` maps.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from bridge.networks import TORCH_NETWORKS, Shape
from jaxmia.errors import InputError
from jaxmia.models import Compute, Network
from jaxmia.models.network import cached_if_built_in

_Path = tuple[str | int, ...]

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# Batch counter, needed only with a momentum of None, which none of these networks uses.
_IGNORED = "num_batches_tracked"


def torch_shapes(network: Network) -> dict[str, Shape]:
    """Name and shape of each entry of the network's `state_dict` in PyTorch, without batch counters."""
    _, leaves = _abstract(network, None)
    return _torch_shapes(network, leaves)


def _torch_shapes(network: Network, leaves: Mapping[_Path, Any]) -> dict[str, Shape]:
    return {
        _torch_name(network, path): tuple(leaf.shape[axis] for axis in _to_torch_axes(leaf.ndim))
        for path, leaf in leaves.items()
    }


def check_fit(expected: Mapping[str, Shape], given: Mapping[str, Shape], source: str) -> None:
    """Checks that names and shapes match, ignoring batch counters.

    Args:
        expected: Shape of each entry of the network's `state_dict`.
        given: Shape of each entry of the given `state_dict`.
        source: Origin of the weights, with which the message begins.

    Raises:
        InputError: They do not match; the message lists the first differences.
    """
    if differences := misfits(expected, given):
        raise InputError(f"{source}: {summary(differences)}")


def misfits(expected: Mapping[str, Shape], given: Mapping[str, Shape]) -> list[str]:
    """Describes every missing name, unexpected name and wrong shape in a phrase each, ignoring batch counters."""
    expected, given = ({n: s for n, s in shapes.items() if _IGNORED not in n} for shapes in (expected, given))
    missing = [f"lacks {name}" for name in expected if name not in given]
    unexpected = [f"has {name}, which the network does not have" for name in given if name not in expected]
    wrong = [
        f"{name} is {tuple(given[name])}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in given and tuple(given[name]) != tuple(shape)
    ]
    kinds = zip_longest(missing, unexpected, wrong)  # so that the first few show something of each kind
    return [phrase for phrases in kinds for phrase in phrases if phrase]


def summary(differences: Sequence[str], most: int = 4) -> str:
    """Joins the first differences, and counts the others."""
    more = len(differences) - most
    return "; ".join([*differences[:most], *([f"and {more} more differences"] if more > 0 else [])])


def to_nnx(
    network: Network,
    weights: Mapping[str, torch.Tensor | np.ndarray],
    compute: Compute | None = None,
    source: str = "state_dict",
) -> nnx.Module:
    """Converts a `state_dict` to an NNX network with float32 weights and batch statistics.

    Args:
        network: Network that the weights belong to.
        weights: PyTorch `state_dict`.
        compute: How the network computes.
        source: Origin of the weights, for error messages.

    Raises:
        InputError: Names or shapes do not match.
    """
    graph, leaves = _abstract(network, compute)
    check_fit(_torch_shapes(network, leaves), {name: tuple(value.shape) for name, value in weights.items()}, source)
    arrays = {path: _from_torch(weights[_torch_name(network, path)]) for path in leaves}
    return nnx.merge(graph, unflatten_dict(arrays))


@cached_if_built_in
def _abstract(network: Network, compute: Compute | None) -> tuple[nnx.GraphDef, Mapping[_Path, Any]]:
    """Structure of the network and shapes of its arrays by attribute path, without allocating them."""
    graph, state = nnx.split(nnx.eval_shape(lambda: network.build(nnx.Rngs(0), compute)))
    return graph, _leaves(state)


def _leaves(state: nnx.State) -> dict[_Path, Any]:
    """Flattens a state to its arrays, or their shapes, by attribute path."""
    return flatten_dict(nnx.to_pure_dict(state))


def _torch_name(network: Network, path: _Path) -> str:
    *modules, leaf = (str(part) for part in path)
    return ".".join([*TORCH_NETWORKS[network.architecture].names(network.architecture, modules), _LEAVES[leaf]])


def _to_torch_axes(ndim: int) -> tuple[int, ...]:
    """Axis permutation from `[height, width, in, out]` to `[out, in, height, width]`, or `[in, out]` to `[out, in]`."""
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(ndim, tuple(range(ndim)))


def _from_torch(value: torch.Tensor | np.ndarray) -> jax.Array:
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    # A copy, since JAX would otherwise share memory with a module that may still be training.
    return jnp.asarray(np.array(array.transpose(np.argsort(_to_torch_axes(array.ndim))), np.float32, order="C"))
