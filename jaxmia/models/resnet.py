"""Residual networks with torchvision's attribute names."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmia.models.layers import Compute, batch_norm, conv, linear

Stem = Literal["cifar", "imagenet"]

STAGES: dict[str, tuple[int, ...]] = {
    "resnet8": (1, 1, 1),
    "resnet14": (2, 2, 2),
    "resnet20": (3, 3, 3),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
}
"""Blocks in each stage of the named residual networks."""


class BasicBlock(nnx.Module):
    """Residual block of two 3x3 convolutions (He et al. 2015); the first may be strided."""

    def __init__(self, channels_in: int, channels: int, stride: int, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.conv1 = conv(channels_in, channels, 3, stride=stride, padding=1, compute=compute, rngs=rngs)
        self.bn1 = batch_norm(channels, compute=compute)
        self.conv2 = conv(channels, channels, 3, padding=1, compute=compute, rngs=rngs)
        self.bn2 = batch_norm(channels, compute=compute)
        self.downsample = (
            Downsample(channels_in, channels, stride, compute=compute, rngs=rngs)
            if stride != 1 or channels_in != channels
            else None
        )

    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[sample, height, width, channel]` to the same axes, strided."""
        outputs = self.bn1(self.conv1(inputs), train=train, relu=True)
        outputs = self.conv2(outputs)
        shortcut = inputs if self.downsample is None else self.downsample(inputs, train=train)
        return self.bn2(outputs, train=train, relu=True, shortcut=shortcut)


class Downsample(nnx.Module):
    """Shortcut of a block that changes shape: a 1x1 convolution and batch normalisation."""

    def __init__(self, channels_in: int, channels: int, stride: int, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.conv = conv(channels_in, channels, 1, stride=stride, padding=0, compute=compute, rngs=rngs)
        self.bn = batch_norm(channels, compute=compute)

    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[sample, height, width, channel]` to the shape of the block's output."""
        return self.bn(self.conv(inputs), train=train)


class ResNet(nnx.Module):
    """A residual network of basic blocks.

    Args:
        blocks: Number of blocks in each stage; all stages but the first halve the resolution and double the channels.
        width: Number of channels of the first stage.
        classes: Number of classes.
        channels: Number of channels of the input.
        stem: First layers: `cifar` is a 3x3 convolution, `imagenet` a 7x7 convolution of stride 2 and a max pool.
        compute: Types and convolution to compute with.
        rngs: Random streams of the initial weights.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        width: int,
        classes: int,
        *,
        channels: int = 3,
        stem: Stem = "cifar",
        compute: Compute,
        rngs: nnx.Rngs,
    ) -> None:
        size, stride, padding = (3, 1, 1) if stem == "cifar" else (7, 2, 3)
        self.conv1 = conv(channels, width, size, stride=stride, padding=padding, compute=compute, rngs=rngs)
        self.bn1 = batch_norm(width, compute=compute)
        self.stem = stem
        stages, channels_in = [], width
        for stage, count in enumerate(blocks):
            features = width * 2**stage
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(BasicBlock(channels_in, features, stride, compute=compute, rngs=rngs))
                channels_in = features
        self.blocks = nnx.List(stages)
        self.fc = linear(channels_in, classes, compute=compute, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Float32 logits `[sample, class]` of images `[sample, height, width, channel]`."""
        outputs = self.bn1(self.conv1(images), train=train, relu=True)
        if self.stem == "imagenet":
            outputs = nnx.max_pool(outputs, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
        for block in self.blocks:
            outputs = block(outputs, train=train)
        return self.fc(outputs.mean((1, 2))).astype(jnp.float32)
