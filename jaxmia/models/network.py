"""Descriptions of networks, and the table of those that are built in."""

import functools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import unflatten_dict
from numpy.typing import DTypeLike

from jaxmia.models import own
from jaxmia.models.layers import Compute
from jaxmia.models.resnet import STAGES, ResNet, Stem
from jaxmia.models.small import CNN, MLP, Hidden
from jaxmia.models.trainable import Arrays
from jaxmia.models.wideresnet import WideResNet
from jaxmia.plugins import is_plugin

_P = ParamSpec("_P")
_T = TypeVar("_T")
_STATS = nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate))
"""Variables, other than weights, that a network keeps from step to step."""


def cached_if_built_in(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Remembers the results of a function of a network, unless the network is your own, whose code may change."""
    cached = functools.cache(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        network: Any = args[0]
        return (cached if network.built_in else function)(*args, **kwargs)

    return call


@dataclass(frozen=True)
class Network:
    """Description of a network, independent of how it computes.

    Attributes:
        architecture: A name in `NETWORKS`, or your own `package.module:factory` (see `jaxmia.models.own`).
        shape: Axes of a sample: height, width and channels of an image, or number of features.
        classes: Number of classes.
        width: Channels of the first stage (cnn, resnets; 16 for the CIFAR resnets, 64 for resnet18 and 34), hidden
            units (mlp) or widening factor (wideresnet); None selects the architecture's default.
        depth: Number of layers of a wideresnet.
        stem: First layers of a resnet: `cifar` or `imagenet`.
        hidden: Hidden layers of an mlp; None is two layers of `units` with ReLU.
    """

    architecture: str
    shape: tuple[int, ...]
    classes: int
    width: int | None = None
    depth: int = 28
    stem: Stem = "cifar"
    hidden: Hidden | None = None

    @property
    def hidden_layers(self) -> Hidden:
        """Hidden layers of an mlp."""
        return self.hidden or Hidden((self.units, self.units))

    @property
    def convolutional(self) -> bool:
        """Whether the network has convolutions, so that their lowering matters."""
        if is_plugin(self.architecture):
            return own.takes(self.architecture, "conv_general_dilated")
        return NETWORKS[self.architecture].convolutional

    @property
    def dense(self) -> bool:
        """Whether dense layers are computed by `Compute.dense`: only by built-in networks."""
        return self.built_in

    @property
    def units(self) -> int:
        """Width of a built-in network; the architecture's default if none is given."""
        return self.width or NETWORKS[self.architecture].width

    @property
    def built_in(self) -> bool:
        """Whether it is one of `NETWORKS`, not your own."""
        return not is_plugin(self.architecture)

    def check(self, dtype: DTypeLike = jnp.float32) -> None:
        """Checks your own network on the shapes of a batch of this type and on two samples.

        Raises:
            InputError: `jaxmia.models.own.check_own` rejects it.
        """
        if not self.built_in:
            batch = jax.ShapeDtypeStruct((2, *self.shape), dtype)
            own.check_own(self.architecture, self.build, batch, self.classes)

    def describe(self) -> dict[str, Any]:
        """The attributes by name."""
        return asdict(self)

    def init(self, key: jax.Array, compute: Compute) -> tuple[Arrays, Arrays]:
        """Draws initial weights and statistics from a key."""
        _, params, _, stats = nnx.split(self.build(nnx.Rngs(key), compute), nnx.Param, nnx.RngState, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def apply(
        self, params: Arrays, stats: Arrays, batch: jax.Array, key: jax.Array, compute: Compute, *, train: bool
    ) -> tuple[jax.Array, Arrays]:
        """Computes logits `[sample, class]` of normalised samples, and new statistics.

        Each random stream of the network starts from its own key, derived from `key`.
        """
        graph, random = self._structure(compute)
        streams = {
            path: jax.random.fold_in(key, number) if issubclass(leaf.type, nnx.RngKey) else jnp.uint32(0)
            for number, (path, leaf) in enumerate(nnx.to_flat_state(random))
        }
        model: Any = nnx.merge(graph, params, unflatten_dict(streams), stats)
        logits = model(batch, train=train)
        return logits, nnx.to_pure_dict(nnx.state(model, _STATS))

    @cached_if_built_in
    def _structure(self, compute: Compute) -> tuple[nnx.GraphDef, nnx.State]:
        """Graph of the network and shapes of its random streams, without allocating arrays.

        To build it takes about as long as to trace it, and one command traces it several times.
        """
        model = nnx.eval_shape(lambda: self.build(nnx.Rngs(0), compute))
        graph, random, *_ = nnx.split(model, nnx.RngState, ...)
        return graph, random

    def build(self, rngs: nnx.Rngs, compute: Compute | None = None) -> nnx.Module:
        """Builds the network with freshly initialised weights.

        Raises:
            InputError: The network is your own, and cannot be imported or built.
        """
        compute = compute or Compute()
        if is_plugin(self.architecture):
            return own.OwnNetwork(self.architecture, self.shape, self.classes, self.width, compute=compute, rngs=rngs)
        return NETWORKS[self.architecture].build(self, compute, rngs)


@dataclass(frozen=True)
class BuiltIn:
    """A row of `NETWORKS`.

    Attributes:
        build: Builds the network of a description, with freshly initialised weights.
        width: Default of `Network.width`.
        convolutional: Whether the network has convolutions.
    """

    build: Callable[[Network, Compute, nnx.Rngs], nnx.Module]
    width: int
    convolutional: bool = True


def _mlp(network: Network, compute: Compute, rngs: nnx.Rngs) -> nnx.Module:
    return MLP(math.prod(network.shape), network.hidden_layers, network.classes, compute=compute, rngs=rngs)


def _cnn(network: Network, compute: Compute, rngs: nnx.Rngs) -> nnx.Module:
    return CNN(network.shape[2], network.units, network.classes, compute=compute, rngs=rngs)


def _resnet(network: Network, compute: Compute, rngs: nnx.Rngs) -> nnx.Module:
    return ResNet(
        STAGES[network.architecture],
        network.units,
        network.classes,
        channels=network.shape[2],
        stem=network.stem,
        compute=compute,
        rngs=rngs,
    )


def _wideresnet(network: Network, compute: Compute, rngs: nnx.Rngs) -> nnx.Module:
    return WideResNet(
        network.depth, network.units, network.classes, channels=network.shape[2], compute=compute, rngs=rngs
    )


NETWORKS: dict[str, BuiltIn] = {
    "mlp": BuiltIn(_mlp, 256, convolutional=False),
    "cnn": BuiltIn(_cnn, 16),
    "resnet8": BuiltIn(_resnet, 16),
    "resnet14": BuiltIn(_resnet, 16),
    "resnet20": BuiltIn(_resnet, 16),
    "resnet18": BuiltIn(_resnet, 64),
    "resnet34": BuiltIn(_resnet, 64),
    "wideresnet": BuiltIn(_wideresnet, 2),
}
"""The built-in networks by name; `bridge.networks.TORCH_NETWORKS` has a row for the same names."""
