"""Selects the backend that trains a PyTorch classifier: JAX, many models at once, or PyTorch, one after another."""

import hashlib
import inspect
import logging
from collections.abc import Callable
from typing import Literal

from torch import nn
from torch.export import ExportedProgram

from bridge.graph.convert import (
    checked_network,
    draw_of_exported,
    frozen_of,
    programs_of_exported,
    programs_of_module,
)
from bridge.graph.initial import Draw, tensors_of
from bridge.graph.network import ConvertedNetwork
from bridge.graph.program import switched
from bridge.sequential import SequentialNetwork, sequential_network
from jaxmia.errors import InputError, NotConvertible
from jaxmia.models import TrainableNetwork

logger = logging.getLogger(__name__)

Backend = Literal["auto", "jax", "torch"]
"""Backend, as in `shadow.backend`."""


def trainable_module(
    module: nn.Module,
    shape: tuple[int, ...],
    *,
    draw: Draw,
    source: str,
    integers: bool = False,
    backend: Backend = "auto",
) -> TrainableNetwork:
    """Makes a module trainable as the network of shadow models; arguments as in `convert_module`.

    Raises:
        InputError: It does not classify such samples, or `backend` is `jax` and it cannot be converted.
    """
    programs, frozen = programs_of_module(module, shape, source=source, integers=integers), frozen_of(module)

    def in_torch() -> SequentialNetwork:
        try:
            digest = ConvertedNetwork(source, shape, 0, programs, draw, frozen).digest
        except NotConvertible:
            digest = digest_of(module)
        return sequential_network(module.train, draw, shape, digest, source=source, integers=integers)

    return _by_backend(backend, lambda: checked_network(source, shape, programs, draw, frozen), in_torch)


def trainable_program(
    exported: ExportedProgram,
    shape: tuple[int, ...],
    *,
    source: str,
    integers: bool = False,
    backend: Backend = "auto",
) -> TrainableNetwork:
    """Makes an exported program trainable as the network of shadow models; arguments as in `convert_exported`.

    Raises:
        InputError: As in `trainable_module`, or the program has a fixed batch size.
    """
    programs = programs_of_exported(exported, source=source)
    draw, frozen = draw_of_exported(exported, programs, source=source), frozen_of(exported)

    def in_torch() -> SequentialNetwork:
        digest = ConvertedNetwork(source, shape, 0, programs, draw, frozen).digest
        return sequential_network(
            lambda train: switched(exported, train=train).module(),
            draw,
            shape,
            digest,
            source=source,
            integers=integers,
        )

    return _by_backend(backend, lambda: checked_network(source, shape, programs, draw, frozen), in_torch)


def digest_of(module: nn.Module) -> str:
    """SHA-256 of a module's printed structure, the code of its own classes, and its weights except for their values."""
    weights = sorted((name, tuple(value.shape), value.requires_grad) for name, value in tensors_of(module).items())
    code = sorted({_code_of(type(part)) for part in module.modules()})
    return hashlib.sha256(f"{module}\n{code}\n{weights}".encode()).hexdigest()


def _code_of(kind: type) -> str:
    """Source code of a class outside PyTorch; its name where there is none."""
    if kind.__module__.partition(".")[0] == "torch":
        return kind.__qualname__
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return kind.__qualname__


def _by_backend(
    backend: Backend, convert: Callable[[], ConvertedNetwork], in_torch: Callable[[], SequentialNetwork]
) -> TrainableNetwork:
    if backend == "torch":
        return in_torch()
    try:
        return convert()
    except NotConvertible as error:
        if backend == "jax":
            raise InputError(
                f"{error}; shadow.backend: auto trains such networks in PyTorch, one model after another"
            ) from error
        network = in_torch()
        logger.warning(
            f"{error}; its shadow models are trained in {network.framework} instead, one after another: "
            "shadow.count times as long as one model takes"
        )
        return network
