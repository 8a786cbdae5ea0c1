"""Evaluates a PyTorch program in JAX, operator by operator, while JAX traces it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch import fx

from bridge.graph.joins import find_joins
from bridge.graph.operators import COMPUTED, COMPUTED_RANDOM, PURE, RANDOM
from bridge.graph.program import Program, has_no_value, is_plain, operator_name
from bridge.graph.tensor import Tensor, tensor
from jaxmia.models import Compute

_IGNORED = {"device", "generator", "layout", "memory_format", "non_blocking", "pin_memory"}
_DTYPES = {
    torch.bfloat16: jnp.bfloat16,
    torch.bool: jnp.bool_,
    torch.float16: jnp.float16,
    torch.float32: jnp.float32,
    torch.float64: jnp.float32,
    torch.int16: jnp.int16,
    torch.int32: jnp.int32,
    torch.int64: jnp.int32,
    torch.int8: jnp.int8,
    torch.uint8: jnp.uint8,
}
"""JAX types by PyTorch types; none has more than 32 bits."""


@dataclass(frozen=True)
class Result:
    """Result of a program.

    Attributes:
        output: Output of the program.
        moved: New values of the buffers that the program changed, by name.
    """

    output: Tensor
    moved: Mapping[str, Tensor]


def run(
    program: Program,
    values: Mapping[str, Tensor],
    batch: Tensor,
    *,
    key: jax.Array,
    compute: Compute,
) -> Result:
    """Evaluates a program.

    Args:
        program: Program to evaluate.
        values: Parameters and buffers by name.
        batch: Input of the program.
        key: Random key; each operator that draws random numbers gets its own.
        compute: How the network computes.
    """
    known: dict[str, Any] = {program.input: batch}
    known |= {node: values[name] for node, name in {**program.parameters, **program.buffers}.items()}
    known |= {node: tensor(jnp.asarray(value)) for node, value in program.constants.items()}
    draws, joins = 0, find_joins(program)
    for node in program.nodes:
        if node.op != "call_function" or has_no_value(node):
            continue
        if node.name in joins.same:
            known[node.name] = known[joins.same[node.name]]
            continue
        arguments = _resolved(node.args, known)
        options = {name: _resolved(value, known) for name, value in node.kwargs.items() if name not in _IGNORED}
        if node.name in joins.shortcuts:
            shortcut = joins.shortcuts[node.name]
            options |= {"relu": True} | ({"shortcut": known[shortcut]} if shortcut else {})
        name = operator_name(node)
        if is_plain(node):
            known[node.name] = node.target(*arguments, **options)  # type: ignore[operator]
        elif name in COMPUTED:
            known[node.name] = COMPUTED[name](compute, *arguments, **options)
        elif name in RANDOM or name in COMPUTED_RANDOM:
            own = jax.random.fold_in(key, draws)
            draws += 1
            if name in RANDOM:
                known[node.name] = RANDOM[name](own, *arguments, **options)
            else:
                known[node.name] = COMPUTED_RANDOM[name](compute, own, *arguments, **options)
        else:
            known[node.name] = PURE[name](*arguments, **options)
    return Result(known[program.output], {name: known[node] for name, node in program.moved.items()})


def _resolved(argument: Any, known: Mapping[str, Any]) -> Any:
    """Replaces nodes in an argument by their values, and PyTorch types by JAX types."""
    if isinstance(argument, fx.Node):
        return known[argument.name]
    if isinstance(argument, torch.dtype):
        return jnp.dtype(_DTYPES[argument])
    if isinstance(argument, list | tuple):
        return type(argument)(_resolved(part, known) for part in argument)
    return argument
