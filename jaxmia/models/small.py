"""Small networks for small images and quick experiments."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmia.config import Activation, Norm
from jaxmia.models.layers import Compute, batch_norm, conv, linear

_ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
}


@dataclass(frozen=True)
class Hidden:
    """Hidden layers of an `MLP`: each a linear map, then normalisation, activation and dropout.

    Attributes:
        units: Number of units of each layer.
        activation: Activation function.
        norm: Batch or layer normalisation before it, or none.
        dropout: Probability with which a unit is dropped in training.
    """

    units: tuple[int, ...]
    activation: Activation = "relu"
    norm: Norm = "none"
    dropout: float = 0.0

    @property
    def bias(self) -> bool:
        """Whether the linear maps have a bias, which batch normalisation would cancel."""
        return self.norm != "batch"


class MLP(nnx.Module):
    """Multilayer perceptron on the flattened sample: layers `fc1`, `fc2`, ..., with `bn1` or `ln1`, ... after each."""

    def __init__(self, inputs: int, hidden: Hidden, classes: int, *, compute: Compute, rngs: nnx.Rngs) -> None:
        self.hidden = hidden
        for number, units in enumerate(hidden.units, 1):
            setattr(self, f"fc{number}", linear(inputs, units, bias=hidden.bias, compute=compute, rngs=rngs))
            if hidden.norm == "batch":
                setattr(self, f"bn{number}", batch_norm(units, compute=compute))
            if hidden.norm == "layer":
                setattr(self, f"ln{number}", nnx.LayerNorm(units, epsilon=1e-5, dtype=compute.dtype, rngs=rngs))
            inputs = units
        setattr(self, f"fc{len(hidden.units) + 1}", linear(inputs, classes, compute=compute, rngs=rngs))
        if hidden.dropout:
            self.dropout = nnx.Dropout(hidden.dropout, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Float32 logits `[sample, class]` of images `[sample, height, width, channel]` or rows `[sample, feature]`."""
        outputs = images.reshape(images.shape[0], -1)
        rectified = self.hidden.activation == "relu" and self.hidden.norm == "none"
        for number in range(1, len(self.hidden.units) + 1):
            outputs = getattr(self, f"fc{number}")(outputs, relu=rectified)
            if self.hidden.norm == "batch":
                outputs = getattr(self, f"bn{number}")(outputs, train=train)
            if self.hidden.norm == "layer":
                outputs = getattr(self, f"ln{number}")(outputs)
            if not rectified:
                outputs = _ACTIVATIONS[self.hidden.activation](outputs)
            if self.hidden.dropout:
                outputs = self.dropout(outputs, deterministic=not train)
        return getattr(self, f"fc{len(self.hidden.units) + 1}")(outputs).astype(jnp.float32)


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
