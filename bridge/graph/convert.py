"""Converts PyTorch modules and exported programs to JAX networks."""

import functools

import torch
from torch import nn
from torch.export import ExportedProgram

from bridge.graph.initial import Draw, by_reset, by_use
from bridge.graph.network import ConvertedNetwork, Programs
from bridge.graph.program import Program, example_of, export, in_core_operators, switched
from jaxmia.errors import InputError, NotConvertible, one_line

_Shape = tuple[int, ...]


def convert_module(
    module: nn.Module,
    shape: _Shape,
    *,
    draw: Draw | None = None,
    source: str = "network",
    integers: bool = False,
) -> ConvertedNetwork:
    """Converts a PyTorch module to a network that JAX computes.

    Args:
        module: The module; the network does not start from the values of its weights.
        shape: Shape of a sample in a pool: `(height, width, channel)` for images, which the module takes as
            `[sample, channel, height, width]`; samples of any other shape are passed unchanged.
        draw: Draws the initial weights; by default each submodule's own `reset_parameters` does.
        source: Origin of the module, for messages.
        integers: Whether samples are integers, such as token ids.

    Raises:
        NotConvertible: The module cannot be exported, or uses an operator that has no counterpart in JAX.
        InputError: The module does not return logits.
    """
    programs = programs_of_module(module, shape, source=source, integers=integers)
    return checked_network(source, shape, programs, draw or by_reset(module), frozen_of(module))


def convert_exported(
    exported: ExportedProgram, shape: _Shape, *, draw: Draw | None = None, source: str = "program"
) -> ConvertedNetwork:
    """Converts a program of `torch.export` to a network that JAX computes.

    Normalisation and dropout switch to training mode, even if the program was exported in evaluation mode. Decisions of
    Python code, such as a module's own stochastic depth, stay as they were exported.

    Args:
        exported: The program.
        shape: Shape of a sample, as in `convert_module`.
        draw: Draws the initial weights; by default as in the layers of `torch.nn` that use them.
        source: Origin of the program, for messages.

    Raises:
        NotConvertible: The program uses an operator that has no counterpart in JAX.
        InputError: The program accepts only one batch size, or does not return logits.
    """
    programs = programs_of_exported(exported, source=source)
    draw = draw or draw_of_exported(exported, programs, source=source)
    return checked_network(source, shape, programs, draw, frozen_of(exported))


def frozen_of(network: nn.Module | ExportedProgram) -> frozenset[str]:
    """Names of parameters without gradient."""
    return frozenset(name for name, value in network.named_parameters() if not value.requires_grad)


def draw_of_exported(exported: ExportedProgram, programs: Programs, *, source: str) -> Draw:
    """Returns a function that draws an exported program's initial weights as the layers of `torch.nn` would."""
    values = {**dict(exported.named_parameters()), **dict(exported.named_buffers())}
    return by_use(programs(True, None), values, source)


def checked_network(
    source: str, shape: _Shape, programs: Programs, draw: Draw, frozen: frozenset[str]
) -> ConvertedNetwork:
    """Creates a network from programs after checking that JAX has their operators; raises as `convert_module` does."""
    try:
        classes = programs(False, None).classes
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error
    network = ConvertedNetwork(source, shape, classes, programs, draw, frozen)
    network.check()
    return network


def programs_of_module(module: nn.Module, shape: _Shape, *, source: str, integers: bool) -> Programs:
    """Exports a module for batches of any size or, if that is impossible, for each batch size separately.

    The arguments are those of `convert_module`. The returned function raises `NotConvertible` if an export fails.
    """
    example = functools.partial(example_of, in_torch(shape), torch.int64 if integers else torch.float32)

    @functools.cache
    def of_any_batch(train: bool) -> Program | None:
        try:
            return in_core_operators(export(module, example(), train=train))
        except Exception:  # a module's code can raise anything; the export for one size then reports the reason
            return None

    @functools.cache
    def of_batch(train: bool, size: int | None) -> Program:
        try:
            batch = example() if size is None else example(size)
            return in_core_operators(export(module, batch, train=train, any_batch=False))
        except Exception as error:
            raise NotConvertible(f"{source}: {_not_exportable(error)}") from error

    return lambda train, size: of_any_batch(train) or of_batch(train, size)


def programs_of_exported(exported: ExportedProgram, *, source: str) -> Programs:
    """Decomposes an exported program into core operators, for training and for evaluation mode.

    Raises:
        NotConvertible: PyTorch cannot decompose the program.
        InputError: The program accepts only one batch size.
    """

    if size := _batch_of(exported):
        raise InputError(
            f"{source}: takes batches of exactly {size}, but shadow models need batches of any size; export it with a "
            "dynamic batch dimension: torch.export.export(network, (example,), "
            "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), where example has two samples or more"
        )

    @functools.cache
    def of(train: bool) -> Program:
        try:
            return in_core_operators(switched(exported, train=train))
        except Exception as error:  # a foreign program can raise anything
            raise NotConvertible(f"{source}: {_not_exportable(error)}") from error

    return lambda train, size: of(train)


def _batch_of(exported: ExportedProgram) -> int | None:
    """Batch size of the program if it is fixed; None otherwise."""
    inputs = set(exported.graph_signature.user_inputs)
    shapes = (node.meta["val"].shape for node in exported.graph.nodes if node.name in inputs)
    sizes = [shape[0] for shape in shapes if len(shape)]
    return next((size for size in sizes if isinstance(size, int)), None)


def _not_exportable(error: Exception) -> str:
    return f"cannot be exported by torch.export: {one_line(error)}"


def in_torch(shape: _Shape) -> _Shape:
    """Shape of a sample in PyTorch's order, channels first."""
    return (shape[2], *shape[:2]) if len(shape) == 3 else shape
