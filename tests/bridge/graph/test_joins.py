import pytest
import torch
from torch import nn

from bridge.graph import convert_module
from bridge.graph.joins import Joins, find_joins
from tests.bridge.graph import zoo

IMAGE = (8, 8, 3)


def joins_of(module: nn.Module) -> Joins:
    return find_joins(convert_module(module, IMAGE, source="a test").programs(True, None))


def test_a_residual_network_computes_every_relu_with_the_layer_before_it():
    program = convert_module(zoo.ResNet(), (16, 16, 3), source="a test").programs(True, None)
    joins = find_joins(program)
    assert sum("linear" in layer for layer in joins.shortcuts) == 1
    assert sum(shortcut is None for shortcut in joins.shortcuts.values()) == 4, "stem, first of each block, head"
    assert sum(shortcut is not None for shortcut in joins.shortcuts.values()) == 2
    assert {node.name for node in program.calls if node.target.__name__ == "relu.default"} <= set(joins.same)


class Normalised(nn.Module):
    """A convolution with normalisation, and what a test does with it."""

    def __init__(self, use) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.use = use

    def forward(self, images):
        return self.use(self.norm(self.conv(images)), self).mean((2, 3))


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda value, _: torch.relu(value) + value, id="used by others too"),
        pytest.param(lambda value, _: torch.relu(torch.add(value, value.detach(), alpha=2)), id="a multiple is added"),
        pytest.param(lambda value, _: torch.relu(value + value), id="twice itself"),
        pytest.param(lambda value, _: torch.relu(value + torch.ones(4, 1, 1)), id="broadcast"),
        pytest.param(lambda value, _: torch.relu(value + 1), id="a number is added"),
        pytest.param(lambda value, own: torch.relu(value + own.conv(torch.ones(1, 3, 8, 8))), id="shapes differ"),
        pytest.param(lambda value, _: torch.relu(value.flip(2)), id="something in between"),
    ],
)
def test_other_uses_of_a_normalisation_are_left_alone(use):
    assert joins_of(Normalised(use)) == Joins()


def test_a_normalisation_by_running_statistics_is_left_alone():
    module = Normalised(lambda value, _: torch.relu(value))
    assert len(joins_of(module).shortcuts) == 1
    program = convert_module(module, IMAGE, source="a test").programs(False, None)
    assert find_joins(program) == Joins()
