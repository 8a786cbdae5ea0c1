"""What people train shadow models with today, made to be timed beside jaxmia."""

import json
import os
import subprocess
import sys
import time
import weakref
from dataclasses import asdict
from typing import Literal

import jax
import jax.numpy as jnp
import torch
import torch.nn.functional as F

from bridge.networks import build
from bridge.trainer import TorchRecipe, augment, make_optimizer, train_step
from jaxmia.config import Augment, Recipe
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.models import Compute, Network
from jaxmia.training.measure import StepTimer
from jaxmia.training.plan import plan_of
from jaxmia.training.trainer import Trainer

Way = Literal["one by one", "torch.func", "vmap"]

_POOL = 1024


class _Torch:
    """Something that can be timed."""

    images: int
    """Images a call."""

    def seconds(self) -> float:
        """Time of one call."""
        raise NotImplementedError

    def warm_up(self) -> float:
        """Makes the first calls; the time of the first less that of the second."""
        first, second = self.seconds(), self.seconds()
        return max(first - second, 0.0)


class OneByOne(_Torch):
    """PyTorch, one model after the other, its data on the device: channels-last, bfloat16 autocast on a GPU."""

    def __init__(self, network: Network, recipe: TorchRecipe) -> None:
        self._recipe = recipe
        self._device = torch.device(recipe.device)
        height, width, channels = network.shape
        self._pixels = torch.rand(_POOL, channels, height, width, device=self._device)
        self._labels = torch.randint(network.classes, (_POOL,), device=self._device)
        self._module = build(network).to(self._device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self._forward = torch.compile(self._module) if recipe.compile else self._module
        self._optimizer = make_optimizer(self._module, recipe)
        self._generator = torch.Generator(self._device).manual_seed(0)
        self._steps = 20 if self._device.type == "cuda" else 2
        self.images = self._steps * recipe.batch_size
        """Images a call."""

    def seconds(self) -> float:
        """Time of one call."""
        _wait(self._device)
        started = time.perf_counter()
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            for _ in range(self._steps):
                index = torch.randint(_POOL, (self._recipe.batch_size,), generator=self._generator, device=self._device)
                batch = augment(self._pixels[index], self._recipe.crop, self._recipe.flip, self._generator)
                train_step(self._forward, self._optimizer, batch, self._labels[index], self._recipe)
        _wait(self._device)
        return time.perf_counter() - started


class FuncVmap(_Torch):
    """`torch.func`: `vmap` over the stacked weights of models, SGD with momentum written out."""

    def __init__(self, network: Network, recipe: TorchRecipe, width: int) -> None:
        self._recipe = recipe
        self._device = torch.device(recipe.device)
        height, breadth, channels = network.shape
        modules = [build(network).to(self._device).train() for _ in range(width)]
        params, buffers = torch.func.stack_module_state(modules)  # type: ignore[arg-type]
        self._params = {name: value.detach() for name, value in params.items()}
        self._buffers = buffers
        self._momentum = {name: torch.zeros_like(value) for name, value in self._params.items()}
        self._images = torch.rand(width, recipe.batch_size, channels, height, breadth, device=self._device)
        self._labels = torch.randint(network.classes, (width, recipe.batch_size), device=self._device)
        self._steps = 5 if self._device.type == "cuda" else 1
        self.images = self._steps * width * recipe.batch_size
        """Images a call."""
        base = build(network).to("meta").train()

        def loss(params: dict, buffers: dict, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            # Batch statistics of the batch; the running ones do not move, which vmap does not allow in place.
            return F.cross_entropy(torch.func.functional_call(base, (params, buffers), (images,)), labels)

        self._gradient = torch.func.vmap(torch.func.grad(loss), randomness="different")

    def seconds(self) -> float:
        """Time of one call."""
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


class SubprocessPeer:
    """One of the peers in a process of its own, as people run it: without what jaxmia sets up for its own process.

    Args:
        way: `one by one` or `torch.func`, in PyTorch; `vmap`, plain JAX.
        network: What is trained.
        recipe: How.
        width: Models together.
    """

    def __init__(self, way: Way, network: Network, recipe: TorchRecipe, width: int) -> None:
        asked = json.dumps({"way": way, "network": asdict(network), "recipe": asdict(recipe), "width": width})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bridge.peers", asked],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Its own process has taken most of a GPU's memory by then.
            env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )
        weakref.finalize(self, _end, self._process)
        self.images = 0
        """Images a call."""

    @property
    def bytes(self) -> None:
        """Not known."""
        return None

    def warm_up(self) -> float:
        """Makes the first calls, which compile; the time of the first less that of the second."""
        return self._call("warm up")

    def seconds(self) -> float:
        """Time of one call."""
        return self._call("seconds")

    def _call(self, what: str) -> float:
        if self._process.stdin:
            self._process.stdin.write(what + "\n")
            self._process.stdin.flush()
        images, seconds = self._answer().split()
        self.images = int(images)
        return float(seconds)

    def _answer(self) -> str:
        answer = self._process.stdout.readline() if self._process.stdout else ""
        if not answer:
            raise MemoryError("the process ended")
        return answer


def _wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def _end(process: subprocess.Popen) -> None:
    """Closes what the process reads from, which ends it, and waits for that."""
    with process:
        pass


def _make(way: Way, network: Network, recipe: TorchRecipe, width: int) -> "OneByOne | FuncVmap | StepTimer":
    if way == "one by one":
        return OneByOne(network, recipe)
    if way == "torch.func":
        return FuncVmap(network, recipe, width)
    shadow = Recipe(
        batch_size=recipe.batch_size, optimizer=recipe.optimizer, augment=Augment(crop=recipe.crop, flip=recipe.flip)
    )
    trainer = Trainer(network, shadow, Preprocessing(), Compute(jnp.dtype(recipe.precision)))
    return StepTimer(trainer, plan_of(width, "grouped", tuple(jax.local_devices()[:1])))


def _serve(asked: str) -> None:
    """Prints the images of a call and the time it took for each line that comes in."""
    content = json.loads(asked)
    network = Network(**{**content["network"], "shape": tuple(content["network"]["shape"])})
    peer = _make(content["way"], network, TorchRecipe(**content["recipe"]), content["width"])
    for line in sys.stdin:
        seconds = peer.warm_up() if line.strip() == "warm up" else peer.seconds()
        print(peer.images, seconds, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
