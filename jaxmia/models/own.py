"""Your own networks: Flax NNX modules that a factory builds.

The factory, named as `package.module:factory`, is a function or a class. It is called by keyword with those of these
arguments that its signature names:

- `rngs`: `nnx.Rngs` that draws the initial weights, seeded by the shadow model.
- `shape`: height, width and channels of an image, or number of features or of positions.
- `classes`: number of logits.
- `width`: `shadow.width` of the configuration, if it is set.
- `dtype`: type of activations, bfloat16 where the device supports it.
- `conv_general_dilated`: argument of `nnx.Conv`: a convolution that stays fast when many models are trained together.

It returns an `nnx.Module`, which is called on normalised images `[sample, height, width, channel]`, rows of features
`[sample, feature]` or token ids, int32 `[sample, position]`, as `module(images)`,
or as `module(images, train=...)` if its `__call__` names `train`, and returns logits `[sample, class]`. It is set to
Flax's training or evaluation mode before each call, so that `nnx.BatchNorm` and `nnx.Dropout` need nothing else. Its
variables, such as batch statistics, are kept for each model; its random streams are keyed by the model and the step.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmia.errors import InputError, printable
from jaxmia.models.layers import Compute
from jaxmia.plugins import import_plugin

_FIELD = "shadow.architecture"
_OFFERED = ("rngs", "shape", "classes", "width", "dtype", "conv_general_dilated")


class OwnNetwork(nnx.Module):
    """Your own module, called like the built-in networks.

    Args:
        name: `package.module:factory`.
        shape: Height, width and channels of an image.
        classes: Number of logits.
        width: Configured width; None leaves it to the factory.
        compute: Type of activations, and convolution.
        rngs: Draws the initial weights.

    Raises:
        InputError: The factory cannot be imported, requires an argument that is not offered, fails, or does not return
            an `nnx.Module`.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        classes: int,
        width: int | None,
        *,
        compute: Compute,
        rngs: nnx.Rngs,
    ) -> None:
        offered = {
            "rngs": rngs,
            "shape": shape,
            "classes": classes,
            "dtype": compute.dtype,
            "conv_general_dilated": compute.conv,
        }
        if width is not None:
            offered["width"] = width
        taken = {key: value for key, value in offered.items() if takes(name, key)}
        network = _tried(name, "fails", lambda: _factory(name)(**taken))
        if not isinstance(network, nnx.Module):
            raise InputError(f"{_FIELD}: {name!r} returns a {type(network).__name__}, expected a flax.nnx.Module")
        self.network = network
        self._takes_train = "train" in inspect.signature(type(network).__call__).parameters

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Float32 logits `[sample, class]` of images `[sample, height, width, channel]`."""
        self.network.train() if train else self.network.eval()
        options = {"train": train} if self._takes_train else {}
        return self.network(images, **options).astype(jnp.float32)  # type: ignore[operator]


def takes(name: str, argument: str) -> bool:
    """Whether the signature of a factory names an argument.

    Raises:
        InputError: The factory cannot be imported, or requires an argument that is not offered.
    """
    return argument in _arguments(name)


def check_own(name: str, build: Callable[[], Any], samples: jax.ShapeDtypeStruct, classes: int) -> None:
    """Checks a network on the shapes of a batch, in training and evaluation, without computing anything.

    Args:
        name: `package.module:factory`, for messages.
        build: Builds the network.
        samples: Shape and type of a batch.
        classes: Number of logits expected.

    Raises:
        InputError: The network cannot be built, fails on such images, or returns something other than logits.
    """
    shape = samples.shape[1:]
    taken = f"images of {shape} [height, width, channel]" if len(shape) == 3 else f"rows of {samples.dtype} {shape}"
    for train in (True, False):
        answer = _tried(
            name,
            f"cannot take {taken}",
            lambda train=train: jax.eval_shape(lambda batch: build()(batch, train=train), samples),
        )
        count = len(samples)
        if answer.shape != (count, classes):
            raise InputError(
                f"{_FIELD}: {name!r} answers {answer.shape} to {count} samples, expected ({count}, {classes}): "
                "[sample, class]"
            )


@functools.cache
def _factory(name: str) -> Any:
    factory = import_plugin(name, _FIELD)
    if not callable(factory):
        raise InputError(
            f"{_FIELD}: {name!r} is a {type(factory).__name__}, expected a function that returns a flax.nnx.Module"
        )
    return factory


@functools.cache
def _arguments(name: str) -> frozenset[str]:
    """Names of the arguments of a factory."""
    factory = _factory(name)
    # A module's metaclass hides the signature of its __init__.
    of_class = isinstance(factory, type)
    parameters = list(inspect.signature(factory.__init__ if of_class else factory).parameters.values())[of_class:]
    foreign = [p.name for p in parameters if p.name not in _OFFERED and p.default is p.empty and p.kind not in (2, 4)]
    if foreign:
        raise InputError(f"{_FIELD}: {name!r} requires {', '.join(foreign)}; offered are {', '.join(_OFFERED)}")
    return frozenset(parameter.name for parameter in parameters)


def _tried(name: str, what: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except InputError:
        raise
    except Exception as error:  # the user's own code, which can raise anything
        reason = printable((str(error).strip().splitlines() or [""])[0])
        raise InputError(f"{_FIELD}: {name!r} {what}: {type(error).__name__}: {reason}") from error
