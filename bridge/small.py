"""Networks for small images and quick trials, in PyTorch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from bridge.resnet import initialise
from jaxmia.config import Activation
from jaxmia.models.small import Hidden

_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
}


class MLP(nn.Module):
    """Multilayer perceptron on the flattened sample; names and layers as in `jaxmia.models.small.MLP`."""

    def __init__(self, inputs: int, hidden: Hidden, classes: int) -> None:
        super().__init__()
        self.hidden = hidden
        for number, units in enumerate(hidden.units, 1):
            setattr(self, f"fc{number}", nn.Linear(inputs, units, bias=hidden.bias))
            if hidden.norm == "batch":
                setattr(self, f"bn{number}", nn.BatchNorm1d(units))
            if hidden.norm == "layer":
                setattr(self, f"ln{number}", nn.LayerNorm(units))
            inputs = units
        setattr(self, f"fc{len(hidden.units) + 1}", nn.Linear(inputs, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `[sample, class]` of images `[sample, channel, height, width]` or rows `[sample, feature]`."""
        # Flattened with channels last, as in JAX, so that both versions share their weights.
        outputs = images.movedim(1, -1).flatten(1)
        for number in range(1, len(self.hidden.units) + 1):
            outputs = getattr(self, f"fc{number}")(outputs)
            if self.hidden.norm != "none":
                outputs = getattr(self, f"{'bn' if self.hidden.norm == 'batch' else 'ln'}{number}")(outputs)
            outputs = F.dropout(_ACTIVATIONS[self.hidden.activation](outputs), self.hidden.dropout, self.training)
        return getattr(self, f"fc{len(self.hidden.units) + 1}")(outputs)


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
