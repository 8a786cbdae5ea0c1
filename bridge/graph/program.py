"""Programs of `torch.export`: exports modules, switches between training and evaluation, and decomposes operators."""

import copy
import hashlib
import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.node import map_arg

from bridge.graph.operators import NAMES

_EXAMPLES = 3
"""Number of samples in the batch with which a module is exported."""

_KEPT = (
    "_upsample_nearest_exact1d.vec",
    "_upsample_nearest_exact2d.vec",
    "adaptive_avg_pool1d.default",
    "adaptive_avg_pool2d.default",
    "adaptive_max_pool1d.default",
    "linear.default",
    "masked_fill.Scalar",
    "reflection_pad1d.default",
    "reflection_pad2d.default",
    "replication_pad1d.default",
    "replication_pad2d.default",
    "roll.default",
    "scaled_dot_product_attention.default",
    "tril.default",
    "triu.default",
    "upsample_bicubic2d.vec",
    "upsample_bilinear2d.vec",
    "upsample_linear1d.vec",
    "upsample_nearest1d.vec",
    "upsample_nearest2d.vec",
)
"""Operators that are not decomposed, since they are faster as a whole."""

_WITHOUT_VALUE = ("_assert", "sym_constrain_range")
_MODE = {
    "batch_norm.default": "training",
    "dropout.default": "train",
    "alpha_dropout.default": "train",
    "feature_dropout.default": "train",
    "feature_alpha_dropout.default": "train",
}
"""Operators that behave differently in training, and the argument that sets the mode."""


@dataclass(frozen=True, eq=False)
class Program:
    """A graph of core operators, with its inputs and outputs.

    Attributes:
        nodes: The graph's nodes in the order in which they are computed.
        parameters: Names of parameters, by their nodes.
        buffers: Names of buffers, by their nodes.
        constants: Values of the other tensors, by their nodes.
        input: Node of the batch.
        output: Node of the logits.
        moved: Nodes of the new values of buffers that the program changes, by the buffers' names.
    """

    nodes: tuple[fx.Node, ...]
    parameters: Mapping[str, str]
    buffers: Mapping[str, str]
    constants: Mapping[str, np.ndarray]
    input: str
    output: str
    moved: Mapping[str, str]

    @property
    def classes(self) -> int:
        """Number of logits.

        Raises:
            ValueError: The output is not `[sample, class]`.
        """
        value = self._node(self.output).meta["val"]
        if not isinstance(value, torch.Tensor) or value.ndim != 2:
            raise ValueError(f"gives {list(getattr(value, 'shape', []))}, expected logits [sample, class]")
        return int(value.shape[1])

    @property
    def calls(self) -> list[fx.Node]:
        """Nodes that call an operator whose value is used."""
        return [node for node in self.nodes if node.op == "call_function" and not has_no_value(node)]

    @property
    def missing(self) -> dict[str, str]:
        """Operators that have no counterpart in JAX, each with the first module that uses it."""
        found: dict[str, str] = {}
        for node in self.calls:
            if not is_known(node):
                found.setdefault(str(node.target), place_of(node))
        return found

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the graph computes, independent of the names of its nodes."""
        number = {node: index for index, node in enumerate(self.nodes)}
        lines = [
            f"{node.op} {self._title(node)} {map_arg((node.args, node.kwargs), lambda part: number[part])}"
            for node in self.nodes
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _node(self, name: str) -> fx.Node:
        return next(node for node in self.nodes if node.name == name)

    def _title(self, node: fx.Node) -> str:
        return self.parameters.get(node.name) or self.buffers.get(node.name) or str(node.target)


def operator_name(node: fx.Node) -> str:
    """Name of the operator that a node calls, with its overload if `bridge.graph.operators` distinguishes overloads."""
    name = getattr(node.target, "_opname", "")
    overload = f"{name}.{getattr(node.target, '_overloadname', '')}"
    return overload if overload in NAMES else name


def is_plain(node: fx.Node) -> bool:
    """Whether a node calls a plain Python function, such as arithmetic on the sizes of a batch."""
    module = getattr(node.target, "__module__", "")
    return node.target is operator.getitem or module in ("_operator", "math") or node.target in _ON_SIZES


_ON_SIZES = (torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float, torch.sym_not, torch.sym_ite)


def is_known(node: fx.Node) -> bool:
    """Whether JAX can compute what a node calls."""
    return is_plain(node) or operator_name(node) in NAMES


def has_no_value(node: fx.Node) -> bool:
    """Whether a node only performs a check."""
    return getattr(node.target, "_opname", "").startswith(_WITHOUT_VALUE)


def place_of(node: fx.Node) -> str:
    """Path and class of the module that a node belongs to."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "the network itself"
    path, kind = stack[-1]
    name = kind if isinstance(kind, str) else kind.__name__
    path = path.replace("L['self'].", "").replace("L['self']", "")
    return f"{path or 'the network itself'} ({name.rpartition('.')[2]})"


def export(module: nn.Module, example: torch.Tensor, *, train: bool, any_batch: bool = True) -> ExportedProgram:
    """Exports a module in training or evaluation mode.

    Args:
        module: Module; its modes, attributes and buffers are restored afterwards.
        example: A batch that the module takes.
        train: Whether to export in training mode.
        any_batch: Whether the program takes batches of any size, or only of the example's size.
    """
    # Anything that a module caches for later calls, such as a mask, would be a tensor without values.
    before = [(part, {**vars(part), "_buffers": part._buffers.copy()}) for part in module.modules()]
    shapes = ({0: Dim.DYNAMIC},) if any_batch else None
    # In evaluation, the fast path of nn.MultiheadAttention is a single operator, which JAX has no counterpart for.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(module.train(train), (example,), dynamic_shapes=shapes)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for part, attributes in before:
            part.__dict__ = attributes


def example_of(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, batch: int = _EXAMPLES) -> torch.Tensor:
    """A batch of zeros for samples of this shape."""
    return torch.zeros((batch, *shape), dtype=dtype)


def switched(program: ExportedProgram, *, train: bool) -> ExportedProgram:
    """Switches a program to training or evaluation mode, as far as its operators distinguish them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = copy.deepcopy(program)
    for node in program.graph.nodes:
        argument = _MODE.get(str(node.target).removeprefix("aten."))
        if node.op == "call_function" and argument:
            place = [part.name for part in node.target._schema.arguments].index(argument)
            node.update_arg(place, train)
    program.graph_module.recompile()
    return program


def in_core_operators(exported: ExportedProgram) -> Program:
    """Decomposes a program into core operators without side effects.

    Raises:
        ValueError: The program takes or returns more than one tensor.
    """
    table = torch.export.default_decompositions()
    for name in _KEPT:
        packet, overload = name.split(".")
        table.pop(getattr(getattr(torch.ops.aten, packet), overload), None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = exported.run_decompositions(table)
    signature = exported.graph_signature
    names: dict[InputKind, dict[str, str]] = {kind: {} for kind in InputKind}
    constants: dict[str, np.ndarray] = {}
    for spec in signature.input_specs:
        names[spec.kind][_name(spec.arg)] = spec.target or ""
        if spec.kind is InputKind.CONSTANT_TENSOR:
            constants[_name(spec.arg)] = as_array(exported.constants[str(spec.target)])
    inputs = list(names[InputKind.USER_INPUT])
    outputs = [_name(spec.arg) for spec in signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"it takes {len(inputs)} and gives {len(outputs)} values, expected a batch and its logits")
    moved = {
        str(spec.target): _name(spec.arg) for spec in signature.output_specs if spec.kind is OutputKind.BUFFER_MUTATION
    }
    exported.graph.eliminate_dead_code()
    return Program(
        nodes=tuple(exported.graph.nodes),
        parameters=names[InputKind.PARAMETER],
        buffers=names[InputKind.BUFFER],
        constants=constants,
        input=inputs[0],
        output=outputs[0],
        moved=moved,
    )


def _name(argument: Any) -> str:
    return getattr(argument, "name", str(argument))


def as_array(value: Any) -> np.ndarray:
    """A copy of a tensor's values, in a type of at most 32 bits."""
    value = value.detach().cpu()
    narrow = {torch.float64: torch.float32, torch.int64: torch.int32, torch.bfloat16: torch.float32}
    return value.to(narrow.get(value.dtype, value.dtype)).numpy().copy()
