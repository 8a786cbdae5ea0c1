"""Networks for small images and quick trials, in PyTorch."""

import torch
import torch.nn.functional as F
from torch import nn

from bridge.resnet import initialise


class MLP(nn.Module):
    """Multilayer perceptron on the flattened image, with two hidden layers of `width` units and ReLU."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `[sample, class]` of images `[sample, channel, height, width]` or rows `[sample, feature]`."""
        # Flattened with channels last, as in JAX, so that both versions share their weights.
        outputs = images.movedim(1, -1).flatten(1)
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
