"""Draws initial weights as PyTorch does."""

import copy
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import init

from bridge.graph.program import Program, operator_name

logger = logging.getLogger(__name__)

_Reset = Callable[[torch.Tensor], Any]

Draw = Callable[[int], Mapping[str, torch.Tensor]]
"""Function from a seed to parameters and buffers by name."""


def by_factory(factory: Callable[[], nn.Module]) -> Draw:
    """Draws weights by calling a factory again for each seed."""

    def draw(seed: int) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return tensors_of(factory())

    return draw


def by_reset(module: nn.Module) -> Draw:
    """Draws weights by calling `reset_parameters` of each submodule of a copy, inner ones first, as in construction.

    Tensors that no submodule resets, such as a bare parameter, are drawn from a normal distribution with the mean and
    the standard deviation of their values, so that no trained values are passed on; buffers keep their values.
    """

    def draw(seed: int) -> dict[str, torch.Tensor]:
        fresh = copy.deepcopy(module)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            own = {id(value) for part in fresh.modules() if _reset_of(part) for value in part.parameters(recurse=False)}
            for value in fresh.parameters():
                if id(value) not in own:
                    _reset_alike(value)
            fresh.apply(_reset)
        return tensors_of(fresh)

    return draw


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a module by name; a shared tensor appears under each of its names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _reset_of(part: nn.Module) -> Callable[[], Any] | None:
    """The method that resets a submodule of `torch.nn`; attention and transformers have private ones."""
    found = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
    return found if callable(found) else None


def _reset(part: nn.Module) -> None:
    if reset := _reset_of(part):
        reset()


def by_use(program: Program, values: Mapping[str, torch.Tensor], source: str) -> Draw:
    """Draws the weights of an exported program as the layers of `torch.nn` that they belong to would.

    The layer of a weight is identified by the operator that uses it. Other weights are drawn from a normal distribution
    with the mean and standard deviation of their values, with a warning. Buffers keep their values, except running
    statistics.

    Args:
        program: The program, in training mode.
        values: Parameters and buffers of the program by name.
        source: Origin of the program, for the warning.
    """
    resets = {name: reset for node in program.calls for name, reset in _resets_of(program, node)}
    resets |= {name: _MULTIHEAD[end] for name in values for end in _MULTIHEAD if name.endswith(end)}
    shared = _shared(values)
    resets = {name: reset for other, reset in resets.items() for name in shared.get(other, (other,))}
    parameters = sorted(set(program.parameters.values()))
    if unknown := [name for name in parameters if name not in resets]:
        logger.warning(
            f"{source}: does not define the initial values of {', '.join(unknown)}; they are drawn from a normal "
            "distribution with the mean and standard deviation of the trained values; a factory "
            "(package.module:function) would define them"
        )

    def draw(seed: int) -> dict[str, torch.Tensor]:
        fresh = {name: value.detach().clone() for name, value in values.items()}
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for name in sorted({*parameters, *resets} & set(fresh)):
                if name == shared[name][0]:
                    resets.get(name, _reset_alike)(fresh[name])
        return {name: fresh[shared[name][0]] for name in fresh}

    return draw


def _shared(values: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """For each name, all names of the same tensor in alphabetical order, of which tied weights have several."""
    names: dict[tuple[Any, ...], list[str]] = {}
    for name in sorted(values):
        value = values[name]
        names.setdefault((value.data_ptr(), value.shape, value.stride()), []).append(name)
    return {name: group for group in names.values() for name in group}


def _resets_of(program: Program, node: fx.Node) -> list[tuple[str, _Reset]]:
    """Names of the weights that an operator uses, and the function by which a layer of `torch.nn` resets each."""

    def tensor_at(place: int) -> str | None:
        name = getattr(node.args[place], "name", "") if place < len(node.args) else ""
        return program.parameters.get(name) or program.buffers.get(name)

    match operator_name(node):
        case "convolution" | "linear":
            fan_in = _fan_in(node.args[1].meta["val"])  # type: ignore[union-attr]
            found = [(tensor_at(1), _reset_kernel), (tensor_at(2), functools.partial(_reset_bias, fan_in=fan_in))]
        case "_native_batch_norm_legit_functional":
            found = [(tensor_at(1), init.ones_), (tensor_at(2), init.zeros_)]
            found += [(tensor_at(3), init.zeros_), (tensor_at(4), init.ones_)]
        case "_native_batch_norm_legit.no_stats" | "native_group_norm":
            found = [(tensor_at(1), init.ones_), (tensor_at(2), init.zeros_)]
        case "native_layer_norm":
            found = [(tensor_at(2), init.ones_), (tensor_at(3), init.zeros_)]
        case "embedding":
            padding: Any = node.args[2] if len(node.args) > 2 else -1
            found = [(tensor_at(0), functools.partial(_reset_table, padding=padding))]
        case _:
            found = []
    return [(name, reset) for name, reset in found if name]


def _fan_in(weight: torch.Tensor) -> int:
    return weight.shape[1] * weight[0, 0].numel()


def _reset_kernel(weight: torch.Tensor) -> None:
    init.kaiming_uniform_(weight, a=5**0.5)


def _reset_bias(bias: torch.Tensor, fan_in: int) -> None:
    init.uniform_(bias, -(fan_in**-0.5), fan_in**-0.5)


def _reset_table(table: torch.Tensor, padding: int) -> None:
    init.normal_(table)
    if padding >= 0:
        table[padding] = 0


def _reset_alike(value: torch.Tensor) -> None:
    spread = value.std() if value.numel() > 1 else torch.zeros(())
    value.copy_(value.mean() + spread * torch.randn_like(value))


_MULTIHEAD: dict[str, _Reset] = {
    "in_proj_bias": init.zeros_,
    "in_proj_weight": init.xavier_uniform_,
    "out_proj.bias": init.zeros_,
}
"""Functions by which `nn.MultiheadAttention` resets its own weights, by the ends of their names."""
