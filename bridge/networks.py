"""PyTorch versions of the networks in `jaxmia.models`."""

import torch
import torch.nn.functional as F
from torch import nn

from bridge.convert import describe, torch_shapes
from bridge.resnet import ResNet, initialise
from jaxmia.models import STAGES, Network


class MLP(nn.Module):
    """Multilayer perceptron on the flattened image, with two hidden layers of `width` units and ReLU."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `[sample, class]` of images `[sample, channel, height, width]`."""
        # Flattened with channels last, as in JAX, so that both versions share their weights.
        outputs = images.permute(0, 2, 3, 1).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(outputs)))))


class CNN(nn.Module):
    """Three 3x3 convolutions of `width`, 2 and 4 `width` channels with normalisation; the last two have stride 2."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, 2, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, classes)
        initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `[sample, class]` of images `[sample, channel, height, width]`."""
        outputs = F.relu(self.bn1(self.conv1(images)))
        outputs = F.relu(self.bn2(self.conv2(outputs)))
        outputs = F.relu(self.bn3(self.conv3(outputs)))
        return self.fc(outputs.mean((2, 3)))


class WideBlock(nn.Module):
    """Pre-activation residual block: twice normalisation, ReLU and convolution."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.shortcut = (
            nn.Conv2d(channels_in, channels, 1, stride, bias=False) if stride != 1 or channels_in != channels else None
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps `[sample, channel, height, width]` to the same axes, strided."""
        active = F.relu(self.bn1(inputs))
        outputs = F.relu(self.bn2(self.conv1(active)))
        shortcut = inputs if self.shortcut is None else self.shortcut(active)
        return self.conv2(outputs) + shortcut


class WideResNet(nn.Module):
    """Wide residual network WRN-depth-widen (Zagoruyko & Komodakis 2016); `depth` is 6 n + 4."""

    def __init__(self, depth: int, widen: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.blocks = nn.ModuleList()
        channels_in = 16
        for stage in range(3):
            features = 16 * widen * 2**stage
            for block in range((depth - 4) // 6):
                self.blocks.append(WideBlock(channels_in, features, 2 if stage > 0 and block == 0 else 1))
                channels_in = features
        self.bn = nn.BatchNorm2d(channels_in)
        self.fc = nn.Linear(channels_in, classes)
        initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `[sample, class]` of images `[sample, channel, height, width]`."""
        outputs = self.conv1(images)
        for block in self.blocks:
            outputs = block(outputs)
        return self.fc(F.relu(self.bn(outputs)).mean((2, 3)))


def build(network: Network) -> nn.Module:
    """Builds the PyTorch version of a network, with freshly initialised weights."""
    height, width, channels = network.shape
    # If the description leaves the width open, it is read from the shapes of the JAX network.
    features = describe(network.architecture, torch_shapes(network)).width or 0
    if network.architecture == "mlp":
        return MLP(height * width * channels, features, network.classes)
    if network.architecture == "cnn":
        return CNN(channels, features, network.classes)
    if network.architecture == "wideresnet":
        return WideResNet(network.depth, features, network.classes, channels)
    return ResNet(STAGES[network.architecture], features, network.classes, channels, network.stem)
