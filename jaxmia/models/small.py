"""Small networks for small images and quick experiments."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmia.models.layers import Compute, batch_norm, conv, linear


class MLP(nnx.Module):
    """Multilayer perceptron on the flattened image, with two hidden layers of `width` units and ReLU."""

    def __init__(self, inputs: int, width: int, classes: int, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.fc1 = linear(inputs, width, compute=compute, rngs=rngs)
        self.fc2 = linear(width, width, compute=compute, rngs=rngs)
        self.fc3 = linear(width, classes, compute=compute, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Float32 logits `[sample, class]` of images `[sample, height, width, channel]`."""
        del train  # the network computes the same in training
        outputs = images.reshape(images.shape[0], -1)
        outputs = jax.nn.relu(self.fc1(outputs))
        outputs = jax.nn.relu(self.fc2(outputs))
        return self.fc3(outputs).astype(jnp.float32)


class CNN(nnx.Module):
    """Three 3x3 convolutions of `width`, 2 and 4 `width` channels with normalisation; the last two have stride 2."""

    def __init__(self, channels: int, width: int, classes: int, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.conv1 = conv(channels, width, 3, padding=1, compute=compute, rngs=rngs)
        self.bn1 = batch_norm(width, compute=compute)
        self.conv2 = conv(width, 2 * width, 3, stride=2, padding=1, compute=compute, rngs=rngs)
        self.bn2 = batch_norm(2 * width, compute=compute)
        self.conv3 = conv(2 * width, 4 * width, 3, stride=2, padding=1, compute=compute, rngs=rngs)
        self.bn3 = batch_norm(4 * width, compute=compute)
        self.fc = linear(4 * width, classes, compute=compute, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Float32 logits `[sample, class]` of images `[sample, height, width, channel]`."""
        outputs = self.bn1(self.conv1(images), train=train, relu=True)
        outputs = self.bn2(self.conv2(outputs), train=train, relu=True)
        outputs = self.bn3(self.conv3(outputs), train=train, relu=True)
        return self.fc(outputs.mean((1, 2))).astype(jnp.float32)
