"""Networks of shadow models that are the target's own or come from a PyTorch factory."""

import functools
import inspect
from typing import Any

import numpy as np
from torch import nn

from bridge.graph.initial import by_factory
from bridge.target import Target, built_in_torch
from bridge.trainable import Backend, trainable_module
from jaxmia.config import Recipe
from jaxmia.data.kinds import TOKENS, kind_of
from jaxmia.errors import InputError, one_line
from jaxmia.models import TrainableNetwork
from jaxmia.plugins import import_plugin, is_plugin
from jaxmia.training.trainer import fitting_network

_FIELD = "shadow.architecture"


def shadow_network(recipe: Recipe, target: Target, samples: np.ndarray, classes: int) -> TrainableNetwork | None:
    """Returns the network of a recipe's shadow models; None if `jaxmia.models` builds it by its name.

    Args:
        recipe: Recipe, whose architecture may be `target` or a factory.
        target: Target under attack.
        samples: Samples of the pool, resized or not.
        classes: Number of classes of the target.

    Raises:
        InputError: The factory fails, or its network has another number of classes or cannot be trained by the
            recipe's backend.
    """
    name = recipe.architecture
    if name == "target":
        return _checked(target.shadow_network(samples, recipe.backend), classes)
    seen = target.preprocessing.resized(samples[:1])
    kind, shape = kind_of(seen), seen.shape[1:]
    if not is_plugin(name):
        return built_in_torch(fitting_network(recipe, shape, classes, kind)) if recipe.backend == "torch" else None
    network = from_factory(name, shape, classes, recipe.width, integers=kind is TOKENS, backend=recipe.backend)
    if network is None and recipe.backend == "torch":
        raise InputError(f"shadow.backend: torch: {name!r} is a network in Flax, which jax trains")
    return network and _checked(network, classes)


def from_factory(
    name: str,
    shape: tuple[int, ...],
    classes: int,
    width: int | None = None,
    *,
    integers: bool = False,
    backend: Backend = "auto",
) -> TrainableNetwork | None:
    """Returns the network of a PyTorch factory; None if the factory is one for Flax.

    Args:
        name: `package.module:factory`; it is called with those of `shape`, `classes` and `width` that it names.
        shape: Axes of a sample: height, width and channels of an image, or number of features.
        classes: Number of classes.
        width: Width; None leaves it to the factory.
        integers: Whether samples are token ids.
        backend: Backend that trains it, as in `shadow.backend`.

    Raises:
        InputError: The factory fails, or its network cannot be trained by this backend.
    """
    factory = import_plugin(name, _FIELD)
    offered = {"shape": shape, "classes": classes, **({"width": width} if width else {})}
    make = functools.partial(_made, name, factory, offered)
    if not _may_be_torch(factory, set(offered)) or not isinstance(module := make(), nn.Module):
        return None
    return trainable_module(
        module, shape, draw=by_factory(make), source=f"{_FIELD}: {name!r}", integers=integers, backend=backend
    )


def _may_be_torch(factory: Any, offered: set[str]) -> bool:
    """Whether a factory can be called without the arguments that only Flax networks are offered."""
    if not callable(factory):
        return False
    if isinstance(factory, type):
        return issubclass(factory, nn.Module)
    needed = [
        parameter.name
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.default is parameter.empty and parameter.kind not in (2, 4)
    ]
    return set(needed) <= offered


def _made(name: str, factory: Any, offered: dict[str, Any]) -> Any:
    """Calls a factory with those of the offered arguments that its signature names."""
    named = inspect.signature(factory).parameters
    try:
        return factory(**{key: value for key, value in offered.items() if key in named})
    except Exception as error:  # the user's own code, which can raise anything
        raise InputError(f"{_FIELD}: {name!r} fails: {one_line(error)}") from error


def _checked(network: TrainableNetwork, classes: int) -> TrainableNetwork:
    if network.classes != classes:
        raise InputError(f"{_FIELD}: gives {network.classes} logits, the target has {classes} classes")
    return network
