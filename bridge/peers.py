"""Common ways to train shadow models, to be timed and compared with jaxmia."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import jax
import jax.numpy as jnp
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import nn

from bridge.networks import build
from bridge.trainer import augment, epoch_batches, make_optimizer, train_step
from jaxmia.config import Recipe
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.models import Compute, Network
from jaxmia.training.measure import StepTimer
from jaxmia.training.plan import plan_of
from jaxmia.training.speed import SubprocessPeer, Timed, serve
from jaxmia.training.trainer import Trainer

Way = Literal["eager", "torch.compile", "torch.func", "vmap"]

_POOL = 1024
_TOGETHER = 8
_TITLES: dict[Way, str] = {
    "eager": "PyTorch eager",
    "torch.compile": "PyTorch torch.compile",
    "torch.func": "torch.func vmap",
    "vmap": "plain vmap (JAX)",
}


@dataclass(frozen=True)
class Peer:
    """A common way to train shadow models.

    Attributes:
        way: One model after the other in PyTorch, eager or compiled, or many models by `torch.func` or by a plain
            `vmap` in JAX.
        network: Network to train.
        recipe: Recipe; its precision is float32 or bfloat16.
        device: PyTorch's name for the device.
        width: Number of models trained at once in one process.
        processes: Number of processes at once, which share the cores.
    """

    way: Way
    network: Network
    recipe: Recipe
    device: str = "cpu"
    width: int = 1
    processes: int = 1

    @property
    def name(self) -> str:
        """Name shown in tables."""
        processes = f", {self.processes} processes" if self.processes > 1 else ""
        return f"{_TITLES[self.way]}, {self.recipe.precision}{processes}"

    def start(self) -> SubprocessPeer:
        """Starts the training, ready to be timed."""
        command = [sys.executable, "-P", "-m", "bridge.peers", _PEER.dump_json(self).decode()]
        # Its own process has taken most of a GPU's memory by then.
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        return SubprocessPeer(command, self.processes, environment)


_PEER = TypeAdapter(Peer)


def find_peers(network: Network, recipe: Recipe, device: str, cores: int) -> list[Peer]:
    """Lists the peers of a device: PyTorch in float32 and bfloat16, and on a CPU also with one process per core.

    Args:
        network: Network to train.
        recipe: Recipe; `torch.func` and plain `vmap` are timed only in its precision, which is that of jaxmia.
        device: PyTorch's name for the device.
        cores: Number of CPU cores.
    """
    processes = [1, cores] if device == "cpu" and cores > 1 else [1]
    ways: list[Way] = ["eager", "torch.compile"]
    found = []
    for precision in ("float32", "bfloat16"):
        exact = recipe.model_copy(update={"precision": precision})
        found += [Peer(way, network, exact, device, 1, count) for count in processes for way in ways]
    if recipe.optimizer == "sgd":
        found.append(Peer("torch.func", network, recipe, device, _TOGETHER))
    return [*found, Peer("vmap", network, recipe, device, _TOGETHER)]


class OneByOne:
    """Training in PyTorch, one model after the other, with data on the device, channels-last, and a fused optimizer.

    Args:
        module: Module to train.
        shape: Axes of a sample, as the module takes them.
        classes: Number of classes.
        recipe: Recipe; its precision is float32 or bfloat16.
        device: PyTorch's name for the device.
        compiled: Whether `torch.compile` fuses the module.
        tokens: Number of distinct token ids; None if samples are not token ids.
    """

    def __init__(
        self,
        module: nn.Module,
        shape: tuple[int, ...],
        classes: int,
        recipe: Recipe,
        *,
        device: str = "cpu",
        compiled: bool = False,
        tokens: int | None = None,
    ) -> None:
        self._recipe = recipe
        self._device = torch.device(device)
        pool = torch.randint(tokens, (_POOL, *shape)) if tokens else torch.rand(_POOL, *shape)
        self._pixels = pool.to(self._device)
        self._labels = torch.randint(classes, (_POOL,), device=self._device)
        self._module = module.to(self._device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self._forward = torch.compile(self._module) if compiled else self._module
        self._optimizer = make_optimizer(self._module, self._recipe, fused=True)
        self._generator = torch.Generator(self._device).manual_seed(0)
        self._batches = self._epochs()
        # Waiting for a GPU after each step would leave it idle.
        self._steps = 20 if self._device.type == "cuda" else 1
        self.images = self._steps * self._recipe.batch_size
        """Number of images in a call."""

    def warm_up(self) -> float:
        """Makes the first calls, which compile; returns the time of the first minus that of the second."""
        return _warm_up(self)

    def seconds(self) -> float:
        """Makes one call and returns its time in seconds."""
        _wait(self._device)
        started = time.perf_counter()
        for index in islice(self._batches, self._steps):
            batch = self._pixels[index]
            if batch.ndim == 4:
                batch = augment(batch, self._recipe.augment, self._generator)
            train_step(self._forward, self._optimizer, batch, self._labels[index], self._recipe)
        _wait(self._device)
        return time.perf_counter() - started

    def _epochs(self) -> Iterator[torch.Tensor]:
        """Yields batches of the pool, epoch after epoch."""
        while True:
            yield from epoch_batches(_POOL, self._recipe.batch_size, self._generator)


class FuncVmap:
    """Training by `torch.func`: `vmap` over the stacked weights of models, with SGD and momentum written out."""

    def __init__(self, peer: Peer) -> None:
        self._recipe, width = peer.recipe, peer.width
        self._device = torch.device(peer.device)
        height, breadth, channels = peer.network.shape
        modules = [build(peer.network).to(self._device).train() for _ in range(width)]
        params, buffers = torch.func.stack_module_state(modules)  # type: ignore[arg-type]
        self._params = {name: value.detach() for name, value in params.items()}
        self._buffers = buffers
        self._momentum = {name: torch.zeros_like(value) for name, value in self._params.items()}
        batch = width, self._recipe.batch_size
        self._images = torch.rand(*batch, channels, height, breadth, device=self._device)
        self._labels = torch.randint(peer.network.classes, batch, device=self._device)
        self._steps = 5 if self._device.type == "cuda" else 1
        self.images = self._steps * self._labels.numel()
        """Number of images in a call."""
        base = build(peer.network).to("meta").train()

        def loss(params: dict, buffers: dict, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            # Normalised by the batch's statistics; vmap does not allow the running ones to be updated in place.
            return F.cross_entropy(torch.func.functional_call(base, (params, buffers), (images,)), labels)

        self._gradient = torch.func.vmap(torch.func.grad(loss), randomness="different")

    def warm_up(self) -> float:
        """Makes the first calls; returns the time of the first minus that of the second."""
        return _warm_up(self)

    def seconds(self) -> float:
        """Makes one call and returns its time in seconds."""
        _wait(self._device)
        started = time.perf_counter()
        half = self._recipe.precision == "bfloat16"
        for _ in range(self._steps):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=half):
                gradients = self._gradient(self._params, self._buffers, self._images, self._labels)
            for name, slope in gradients.items():
                self._momentum[name].mul_(self._recipe.momentum).add_(slope)
                self._params[name].sub_(self._recipe.learning_rate * self._momentum[name])
        _wait(self._device)
        return time.perf_counter() - started


def make(peer: Peer) -> Timed:
    """Creates the peer's training in this process."""
    if peer.way == "vmap":
        compute = Compute(jnp.dtype(peer.recipe.precision))
        trainer = Trainer(peer.network, peer.recipe, Preprocessing(), compute)
        return StepTimer(trainer, plan_of(peer.width, "grouped", tuple(jax.local_devices()[:1])))
    torch.backends.cudnn.benchmark = True
    share_cores(peer.processes)
    if peer.way == "torch.func":
        return FuncVmap(peer)
    height, width, channels = peer.network.shape
    return OneByOne(
        build(peer.network),
        (channels, height, width),
        peer.network.classes,
        peer.recipe,
        device=peer.device,
        compiled=peer.way == "torch.compile",
    )


def share_cores(processes: int) -> None:
    """Limits this process to its share of the cores, if several train at once."""
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def _warm_up(timed: Timed) -> float:
    first, second = timed.seconds(), timed.seconds()
    return max(first - second, 0.0)


def _wait(device: torch.device) -> None:
    """Waits until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    serve(make(_PEER.validate_json(sys.argv[1])))
