"""Wide residual networks in PyTorch."""

import torch
import torch.nn.functional as F
from torch import nn

from bridge.resnet import initialise


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
