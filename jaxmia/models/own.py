"""Your own networks: Flax NNX modules that a factory builds.

The factory, named as `package.module:factory`, is a function or a class. It is called by keyword with those of these
arguments that its signature names:

- `rngs`: `nnx.Rngs` that draws the initial weights, seeded by the shadow model.
- `shape`: height, width and channels of an image, or number of features or of positions.
- `classes`: number of logits.
- `width`: `shadow.width` of the configuration, if it is set; it must not be set for a factory that takes no width.
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
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict

from jaxmia.errors import InputError, one_line
from jaxmia.models.layers import Compute
from jaxmia.models.probabilities import are_probabilities
from jaxmia.plugins import import_plugin

_FIELD = "shadow.architecture"
_OFFERED = ("rngs", "shape", "classes", "width", "dtype", "conv_general_dilated")
_KEPT = nnx.Not(nnx.Any(nnx.RngState, nnx.Intermediate))
"""Variables that a shadow model keeps from step to step: weights, batch statistics and whatever else the module has."""


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
            if not takes(name, "width"):
                raise InputError(f"shadow.width: {width} is given, but {name!r} takes no width")
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
        logits = self.network(images, **options)  # type: ignore[operator]
        if not isinstance(logits, jax.Array):
            raise TypeError(f"it returns a {type(logits).__name__}, expected an array of logits")
        return logits.astype(jnp.float32)


def takes(name: str, argument: str) -> bool:
    """Whether the signature of a factory names an argument.

    Raises:
        InputError: The factory cannot be imported, or requires an argument that is not offered.
    """
    return argument in _arguments(name)


def check_own(name: str, build: Callable[[nnx.Rngs], Any], samples: jax.ShapeDtypeStruct, classes: int) -> None:
    """Checks a network on the shapes of a batch, in evaluation and in training of several models, and on two samples.

    Args:
        name: `package.module:factory`, for messages.
        build: Builds the network with given random streams.
        samples: Shape and type of a batch.
        classes: Number of logits expected.

    Raises:
        InputError: The network cannot be built, fails on such images, returns something other than logits, such as
            probabilities, or has variables that change their shape or number in training.
    """
    shape, expected = samples.shape[1:], (len(samples), classes)
    taken = f"images of {shape} [height, width, channel]" if len(shape) == 3 else f"rows of {samples.dtype} {shape}"

    def evaluate(samples: jax.Array) -> jax.Array:
        return build(nnx.Rngs(0))(samples, train=False)

    answer = _tried(name, f"cannot take {taken}", lambda: jax.eval_shape(evaluate, samples))
    if answer.shape != expected:
        raise InputError(f"{_FIELD}: {name!r} returns {answer.shape} for {len(samples)} samples, expected {expected}")
    train = jax.vmap(functools.partial(_train, build), (0, None))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    before, after = _tried(name, f"cannot train on {taken}", lambda: jax.eval_shape(train, keys, samples))
    if changed := sorted({*before.items()} ^ {*after.items()}, key=str):
        variables = ", ".join(dict.fromkeys(".".join(map(str, path[1:])) for path, _ in changed))
        raise InputError(
            f"{_FIELD}: {name!r} changes the shape, type or number of its variables in training: {variables}"
        )
    two = jnp.asarray(np.random.default_rng(0).integers(0, 2, (2, *shape)), samples.dtype)
    if are_probabilities(np.asarray(evaluate(two))):
        raise InputError(
            f"{_FIELD}: {name!r} returns probabilities (rows in [0, 1] that sum to 1), expected logits: leave out its "
            "softmax"
        )


def _train(build: Callable[[nnx.Rngs], Any], key: jax.Array, samples: jax.Array) -> tuple[Any, Any]:
    """Variables of a model before and after the gradient of a batch, by path."""
    model = build(nnx.Rngs(key))
    graph, *states = nnx.split(model, nnx.Param, ...)
    weights, rest = map(nnx.to_pure_dict, states)

    def loss(weights: Any) -> tuple[jax.Array, Any]:
        trained = nnx.merge(graph, weights, rest)
        return trained(samples, train=True).sum(), _variables(trained, _KEPT)

    return _variables(model, nnx.Not(nnx.RngState)), jax.grad(loss, has_aux=True)(weights)[1]


def _variables(model: nnx.Module, kind: Any) -> dict[Any, Any]:
    return flatten_dict(nnx.to_pure_dict(nnx.state(model, kind)))


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
    signature = _tried(name, "fails", lambda: inspect.signature(factory.__init__ if of_class else factory))
    parameters = list(signature.parameters.values())[of_class:]
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
        raise InputError(f"{_FIELD}: {name!r} {what}: {one_line(error)}") from error
