"""The built-in networks in PyTorch: construction, description from a `state_dict`, and names in it."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from torch import nn

from bridge.resnet import ResNet
from bridge.small import CNN, MLP
from bridge.wideresnet import WideResNet
from jaxmia.errors import InputError
from jaxmia.models import Network
from jaxmia.models.resnet import STAGES
from jaxmia.models.small import Hidden

_MAX_BLOCKS = 128
"""Largest number of blocks of a wide ResNet that is built for comparison, since a file can imply any number."""

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Shape of each entry of a `state_dict`, by name."""


def build(network: Network) -> nn.Module:
    """Builds the PyTorch version of a network, with freshly initialised weights.

    Raises:
        InputError: The network is your own in Flax.
    """
    if network.architecture not in TORCH_NETWORKS:
        raise InputError(f"shadow.architecture: {network.architecture!r} has no PyTorch version")
    return TORCH_NETWORKS[network.architecture].build(network)


def describe(architecture: str, shapes: Shapes) -> Network:
    """Infers width, depth, stem, classes and channels of a network from the shapes of its `state_dict`.

    Height and width of the input cannot be inferred: they are 1 here, and for an MLP all inputs count as channels. If a
    key is missing or has too few axes, the architecture's default is used, and `check_fit` reports the key later.

    Args:
        architecture: Name of a built-in architecture.
        shapes: Shape of each entry, by its PyTorch name.
    """
    return TORCH_NETWORKS[architecture].describe(architecture, shapes)


@dataclass(frozen=True)
class TorchNetwork:
    """A row of `TORCH_NETWORKS`.

    Attributes:
        build: Builds the PyTorch network of a description.
        describe: Describes a network of this architecture from the shapes of its `state_dict`.
        names: Maps the names of the modules around a layer from JAX to PyTorch, for this architecture.
    """

    build: Callable[[Network], nn.Module]
    describe: Callable[[str, Shapes], Network]
    names: Callable[[str, list[str]], list[str]] = lambda architecture, modules: modules


def _mlp(network: Network) -> nn.Module:
    return MLP(math.prod(network.shape), network.hidden_layers, network.classes)


def _cnn(network: Network) -> nn.Module:
    return CNN(network.shape[2], network.units, network.classes)


def _resnet(network: Network) -> nn.Module:
    return ResNet(STAGES[network.architecture], network.units, network.classes, network.shape[2], network.stem)


def _wideresnet(network: Network) -> nn.Module:
    return WideResNet(network.depth, network.units, network.classes, network.shape[2])


def _describe_mlp(architecture: str, shapes: Shapes) -> Network:
    layers = sum(bool(re.fullmatch(r"fc[0-9]{1,3}\.weight", name)) for name in shapes) or 3
    units = [_size(shapes, f"fc{number}.weight", 0) for number in range(1, layers + 1)]
    norm = "batch" if "bn1.weight" in shapes else "layer" if "ln1.weight" in shapes else "none"
    hidden = Hidden(tuple(width or 1 for width in units[:-1]), norm=norm)
    return Network(architecture, (1, 1, _size(shapes, "fc1.weight", 1) or 3), units[-1] or 10, hidden=hidden)


def _describe_cnn(architecture: str, shapes: Shapes) -> Network:
    """Describes a CNN or a ResNet."""
    channels, width = _size(shapes, "conv1.weight", 1) or 3, _size(shapes, "conv1.weight", 0)
    stem = "imagenet" if _size(shapes, "conv1.weight", 2) == 7 else "cifar"
    return Network(architecture, (1, 1, channels), _size(shapes, "fc.weight", 0) or 10, width, stem=stem)


def _describe_wideresnet(architecture: str, shapes: Shapes) -> Network:
    channels, width = _size(shapes, "conv1.weight", 1) or 3, (_size(shapes, "fc.weight", 1) or 0) // 64 or None
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    depth = 2 * len(blocks) + 4 if 0 < len(blocks) <= _MAX_BLOCKS else 28
    return Network(architecture, (1, 1, channels), _size(shapes, "fc.weight", 0) or 10, width, depth)


def _size(shapes: Shapes, name: str, axis: int) -> int | None:
    """Length of an axis of an entry; None if there is no such entry or axis, or it is empty."""
    shape = shapes.get(name, ())
    return shape[axis] or None if axis < len(shape) else None


def _torchvision(architecture: str, modules: list[str]) -> list[str]:
    """Names as in torchvision: the n-th of `blocks` is `layerI.J`, and `conv` and `bn` of its shortcut are numbered."""
    if modules[0] == "blocks":
        modules = [*_stage(STAGES[architecture], int(modules[1])), *modules[2:]]
    return [*modules[:-1], {"conv": "0", "bn": "1"}[modules[-1]]] if "downsample" in modules else modules


def _stage(blocks: tuple[int, ...], index: int) -> list[str]:
    """Module names of a block in torchvision: its stage and its index in the stage."""
    ends = list(accumulate(blocks))
    stage = next(number for number, end in enumerate(ends) if index < end)
    return [f"layer{stage + 1}", str(index - ends[stage] + blocks[stage])]


_RESNET = TorchNetwork(_resnet, _describe_cnn, _torchvision)

TORCH_NETWORKS: dict[str, TorchNetwork] = {
    "mlp": TorchNetwork(_mlp, _describe_mlp),
    "cnn": TorchNetwork(_cnn, _describe_cnn),
    **dict.fromkeys(STAGES, _RESNET),
    "wideresnet": TorchNetwork(_wideresnet, _describe_wideresnet),
}
"""The networks of `jaxmia.models.NETWORKS` in PyTorch."""
