"""Wide residual networks (Zagoruyko & Komodakis 2016)."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmia.models.layers import Compute, batch_norm, conv, linear


class WideBlock(nnx.Module):
    """Pre-activation residual block: twice normalisation, ReLU and convolution."""

    def __init__(self, channels_in: int, channels: int, stride: int, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.bn1 = batch_norm(channels_in, compute=compute)
        self.conv1 = conv(channels_in, channels, 3, stride=stride, padding=1, compute=compute, rngs=rngs)
        self.bn2 = batch_norm(channels, compute=compute)
        self.conv2 = conv(channels, channels, 3, padding=1, compute=compute, rngs=rngs)
        self.shortcut = (
            conv(channels_in, channels, 1, stride=stride, padding=0, compute=compute, rngs=rngs)
            if stride != 1 or channels_in != channels
            else None
        )

    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[sample, height, width, channel]` to the same axes, strided."""
        active = self.bn1(inputs, train=train, relu=True)
        outputs = self.bn2(self.conv1(active), train=train, relu=True)
        shortcut = inputs if self.shortcut is None else self.shortcut(active)
        return self.conv2(outputs) + shortcut


class WideResNet(nnx.Module):
    """Wide residual network WRN-depth-widen.

    Args:
        depth: Number of layers with weights, 6 n + 4 for an integer n.
        widen: Factor by which the 16, 32 and 64 channels of the three stages are multiplied.
        classes: Number of classes.
        channels: Number of channels of the input.
        compute: Types and convolution to compute with.
        rngs: Random streams of the initial weights.

    Raises:
        ValueError: `depth` is not 6 n + 4.
    """

    def __init__(
        self, depth: int, widen: int, classes: int, *, channels: int = 3, compute: Compute, rngs: nnx.Rngs
    ) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"Expected depth 6 n + 4 (10, 16, 22, 28, ...), got {depth}.")
        self.conv1 = conv(channels, 16, 3, padding=1, compute=compute, rngs=rngs)
        blocks, channels_in = [], 16
        for stage in range(3):
            features = 16 * widen * 2**stage
            for block in range((depth - 4) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(WideBlock(channels_in, features, stride, compute=compute, rngs=rngs))
                channels_in = features
        self.blocks = nnx.List(blocks)
        self.bn = batch_norm(channels_in, compute=compute)
        self.fc = linear(channels_in, classes, compute=compute, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Float32 logits `[sample, class]` of images `[sample, height, width, channel]`."""
        outputs = self.conv1(images)
        for block in self.blocks:
            outputs = block(outputs, train=train)
        outputs = self.bn(outputs, train=train, relu=True)
        return self.fc(outputs.mean((1, 2))).astype(jnp.float32)
