"""Residual networks in PyTorch, with the keys of torchvision's `state_dict`."""

from collections.abc import Sequence

import torch
from torch import nn


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions (He et al. 2015); the first may be strided."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
            if stride != 1 or channels_in != channels
            else None
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps `[sample, channel, height, width]` to the same axes, strided."""
        outputs = self.relu(self.bn1(self.conv1(inputs)))
        outputs = self.bn2(self.conv2(outputs))
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        return self.relu(outputs + shortcut)


class ResNet(nn.Module):
    """A residual network of basic blocks; `(2, 2, 2, 2)` is ResNet-18, `(3, 4, 6, 3)` ResNet-34.

    Args:
        blocks: Number of blocks in each stage; all stages but the first halve the resolution and double the channels.
        width: Number of channels of the first stage.
        classes: Number of classes.
        channels: Number of channels of the input.
        stem: First layers: `cifar` is a 3x3 convolution, `imagenet` a 7x7 convolution of stride 2 and a max pool.
    """

    def __init__(self, blocks: Sequence[int], width: int, classes: int, channels: int = 3, stem: str = "cifar") -> None:
        super().__init__()
        imagenet = stem == "imagenet"
        size, stride, padding = (7, 2, 3) if imagenet else (3, 1, 1)
        self.conv1 = nn.Conv2d(channels, width, size, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        self.stages = len(blocks)
        channels_in = width
        for stage, count in enumerate(blocks):
            features, stride = width * 2**stage, 1 if stage == 0 else 2
            first = BasicBlock(channels_in, features, stride)
            rest = [BasicBlock(features, features, 1) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
            channels_in = features
        self.fc = nn.Linear(channels_in, classes)
        initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `[sample, class]` of images `[sample, channel, height, width]`."""
        outputs = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in range(self.stages):
            outputs = self.get_submodule(f"layer{stage + 1}")(outputs)
        return self.fc(outputs.mean((2, 3)))


def initialise(network: nn.Module) -> None:
    """Initialises convolutions from He's normal distribution over the fan-out; other layers keep PyTorch's defaults."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
