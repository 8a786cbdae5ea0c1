"""Flax NNX networks, each called as `model(images, train=...)`."""

from dataclasses import dataclass

from flax import nnx

from jaxmia.config import Architecture
from jaxmia.models.conv import LOWERINGS, Lowering, ensemble_conv
from jaxmia.models.layers import Compute
from jaxmia.models.resnet import ResNet, Stem
from jaxmia.models.small import CNN, MLP
from jaxmia.models.wideresnet import WideResNet

STAGES: dict[str, tuple[int, ...]] = {
    "resnet8": (1, 1, 1),
    "resnet14": (2, 2, 2),
    "resnet20": (3, 3, 3),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
}
_WIDTH = {"mlp": 256, "cnn": 16, "resnet8": 16, "resnet14": 16, "resnet20": 16, "wideresnet": 2}


@dataclass(frozen=True)
class Network:
    """Description of a network, independent of how it computes.

    Attributes:
        architecture: Name of the architecture, such as `resnet18`.
        shape: Height, width and channels of an input image.
        classes: Number of classes.
        width: Channels of the first stage (cnn, resnets; 16 for the CIFAR resnets, 64 for resnet18 and 34), hidden
            units (mlp) or widening factor (wideresnet); None selects the architecture's default.
        depth: Number of layers of a wideresnet.
        stem: First layers of a resnet: `cifar` or `imagenet`.
    """

    architecture: Architecture
    shape: tuple[int, int, int]
    classes: int
    width: int | None = None
    depth: int = 28
    stem: Stem = "cifar"

    @property
    def convolutional(self) -> bool:
        """Whether the network has convolutions, so that their lowering matters."""
        return self.architecture != "mlp"

    def build(self, rngs: nnx.Rngs, compute: Compute | None = None) -> nnx.Module:
        """Builds the network with freshly initialised weights."""
        compute = compute or Compute()
        width = self.width or _WIDTH.get(self.architecture, 64)
        height, breadth, channels = self.shape
        if self.architecture == "mlp":
            return MLP(height * breadth * channels, width, self.classes, compute=compute, rngs=rngs)
        if self.architecture == "cnn":
            return CNN(channels, width, self.classes, compute=compute, rngs=rngs)
        if self.architecture == "wideresnet":
            return WideResNet(self.depth, width, self.classes, channels=channels, compute=compute, rngs=rngs)
        return ResNet(
            STAGES[self.architecture],
            width,
            self.classes,
            channels=channels,
            stem=self.stem,
            compute=compute,
            rngs=rngs,
        )


__all__ = ["LOWERINGS", "STAGES", "Architecture", "Compute", "Lowering", "Network", "Stem", "ensemble_conv"]
