"""Finds ReLUs that the layers before them compute, which saves passes over the activations."""

import itertools
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from bridge.graph.program import Program, operator_name

_TRAINED_BY_BATCH = {"_native_batch_norm_legit_functional": 5, "_native_batch_norm_legit.no_stats": 3}
"""Batch normalisations by the place of the argument that tells whether the statistics are those of the batch."""


@dataclass(frozen=True)
class Joins:
    """Layers with a ReLU, and a sum in between if it is that of a residual block.

    Attributes:
        shortcuts: Node that is added before the ReLU, None if there is no sum, by the layer's node.
        same: Nodes whose value the layer has computed, as the node that has it, by their names.
    """

    shortcuts: dict[str, str | None] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)


def find_joins(program: Program) -> Joins:
    """Finds the dense layers and batch normalisations of a program whose outputs only a ReLU uses."""
    found = Joins()
    position = {node: index for index, node in enumerate(program.nodes)}
    for node in program.calls:
        if operator_name(node) != "relu":
            continue
        value = node.all_input_nodes[0]
        if not _used_once(value, program):
            continue
        if layer := _dense(value) or _normalisation(value):
            found.shortcuts[layer.name] = None
            found.same[node.name] = value.name
        elif pair := _residual(value, program, position):
            output, shortcut = pair
            found.shortcuts[output.all_input_nodes[0].name] = shortcut.name
            found.same.update({value.name: output.name, node.name: output.name})
    return found


def _dense(value: fx.Node) -> fx.Node | None:
    return value if operator_name(value) == "linear" else None


def _normalisation(value: fx.Node) -> fx.Node | None:
    """The batch normalisation whose output a node is, if it uses the batch's statistics."""
    if value.target is not operator.getitem or value.args[1] != 0:
        return None
    (layer,) = value.all_input_nodes
    place = _TRAINED_BY_BATCH.get(operator_name(layer))
    return layer if place is not None and layer.args[place] is True else None


def _residual(value: fx.Node, program: Program, position: Mapping[fx.Node, int]) -> tuple[fx.Node, fx.Node] | None:
    """The output of a batch normalisation and what is added to it, which is known before."""
    parts = value.all_input_nodes
    if operator_name(value) not in ("add", "add.Tensor") or value.kwargs or len(parts) != 2:
        return None
    for output, shortcut in itertools.permutations(parts):
        layer = _normalisation(output)
        alike = [part.meta["val"].shape for part in (shortcut, value)]
        if layer and _used_once(output, program) and position[shortcut] < position[layer] and alike[0] == alike[1]:
            return output, shortcut
    return None


def _used_once(node: fx.Node, program: Program) -> bool:
    return len(node.users) == 1 and node.name != program.output
