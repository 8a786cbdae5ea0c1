"""Networks as a user would write them, for tests; they know nothing of jaxmia."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Plain(nnx.Module):
    """`__call__(x)`: convolutions, batch normalisation and dropout of Flax; a count of its own."""

    def __init__(self, shape, classes, *, rngs: nnx.Rngs, conv_general_dilated=jax.lax.conv_general_dilated):
        self.conv = nnx.Conv(shape[2], 4, (3, 3), conv_general_dilated=conv_general_dilated, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.fc = nnx.Linear(4, classes, rngs=rngs)
        self.calls = nnx.Variable(jnp.float32(0))

    def __call__(self, images):
        self.calls[...] = self.calls[...] + 1
        return self.fc(self.dropout(nnx.relu(self.norm(self.conv(images))).mean((1, 2))))


class Deaf(Plain):
    """`Plain` that does not take the convolution that is offered."""

    def __init__(self, shape, classes, *, rngs: nnx.Rngs):
        super().__init__(shape, classes, rngs=rngs)


class Told(nnx.Module):
    """`__call__(x, train)`; draws noise from a stream of its own."""

    def __init__(self, rngs, shape, classes, width):
        self.hidden = nnx.Linear(shape[0] * shape[1] * shape[2], width, rngs=rngs)
        self.fc = nnx.Linear(width, classes, rngs=rngs)
        self.rngs = rngs

    def __call__(self, images, train: bool):
        hidden = nnx.relu(self.hidden(images.reshape(len(images), -1)))
        if train:
            hidden = hidden + 0.3 * jax.random.normal(self.rngs.noise(), hidden.shape)
        return self.fc(hidden)


def told(rngs, shape, classes, width=5):
    return Told(rngs, shape, classes, width)


def wrong_shape(rngs, shape, classes):
    return Plain(shape, classes + 1, rngs=rngs)


def probable(rngs, shape, classes):
    return nnx.Sequential(Plain(shape, classes, rngs=rngs), nnx.softmax)


def fails_on_images(rngs, shape, classes):
    return nnx.Linear(shape[0] + 7, classes, rngs=rngs)


def no_module(rngs):
    return "a network"


def asks_too_much(rngs, shape, number_of_classes, pretrained, extra=1, **others):
    return Plain(shape, number_of_classes, rngs=rngs)


def raises(rngs):
    raise FileNotFoundError("no weights\nat all")


class Growing(Told):
    """Remembers a value more at each call."""

    def __init__(self, rngs, shape, classes):
        super().__init__(rngs, shape, classes, 3)
        self.seen = nnx.Variable(jnp.zeros(1))

    def __call__(self, images):
        self.seen.set_value(jnp.concatenate([self.seen[...], jnp.ones(1)]))
        return super().__call__(images, False)


class Lazy(Told):
    """Makes statistics when it is called."""

    def __init__(self, rngs, shape, classes):
        super().__init__(rngs, shape, classes, 3)

    def __call__(self, images):
        self.late = nnx.BatchStat(images.mean())
        return super().__call__(images, False)


class OnTheHost(Told):
    """Leaves JAX for NumPy."""

    def __init__(self, rngs, shape, classes):
        super().__init__(rngs, shape, classes, 3)

    def __call__(self, images):
        return jnp.asarray(np.asarray(super().__call__(images, False)))


class Twofold(Told):
    """Returns features beside the logits."""

    def __init__(self, rngs, shape, classes):
        super().__init__(rngs, shape, classes, 3)

    def __call__(self, images):
        return super().__call__(images, False), images


class Counting(Told):
    """Has a weight that no gradient can train."""

    def __init__(self, rngs, shape, classes):
        super().__init__(rngs, shape, classes, 3)
        self.count = nnx.Param(jnp.int32(0))


def number(x, /):
    return x


answer = 42
