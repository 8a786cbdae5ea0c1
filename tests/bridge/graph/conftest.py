"""Each network of the zoo, converted once for all tests."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bridge.graph import ConvertedNetwork, convert_module
from bridge.graph.initial import tensors_of
from jaxmia.models import Compute
from tests.bridge.graph import zoo

IMAGE, WORDS, ROW = (16, 16, 3), (10,), (12,)
ZOO: dict[str, tuple[Any, tuple[int, ...]]] = {
    "lenet": (zoo.LeNet, IMAGE),
    "vgg": (zoo.VGG, IMAGE),
    "resnet": (zoo.ResNet, IMAGE),
    "densenet": (zoo.DenseNet, IMAGE),
    "mobilenet": (zoo.MobileNetV2, IMAGE),
    "senet": (zoo.SENet, IMAGE),
    "convnext": (zoo.ConvNeXt, IMAGE),
    "vit": (zoo.ViT, IMAGE),
    "mixer": (zoo.Mixer, IMAGE),
    "text": (zoo.TextClassifier, WORDS),
    "table": (zoo.TableMLP, ROW),
}
BATCH, CLASSES = 8, 5


@dataclass
class Pair:
    """A network in PyTorch and its conversion, with a batch for both; model `i` starts from seed `i`."""

    module: nn.Module
    network: ConvertedNetwork
    batch: np.ndarray
    labels: np.ndarray

    @property
    def inputs(self) -> torch.Tensor:
        """The batch as PyTorch takes it."""
        batch = torch.tensor(self.batch)
        return batch.permute(0, 3, 1, 2) if batch.ndim == 4 else batch

    def init(self, seed: int = 0):
        """Weights and statistics of the module that the seed gives, in JAX."""
        return self.network._drawn(seed)

    @functools.cached_property
    def step(self):
        """Loss, new statistics and gradients of one training step, of `(params, stats, key)`."""

        def loss(params, stats, key):
            logits, stats = self.network.apply(params, stats, jnp.asarray(self.batch), key, Compute(), train=True)
            return -jax.nn.log_softmax(logits)[jnp.arange(BATCH), self.labels].mean(), stats

        return jax.value_and_grad(loss, has_aux=True)

    def named(self, arrays) -> dict[str, np.ndarray]:
        """Arrays of the network with their axes in PyTorch's order."""
        back = {}
        for name, array in arrays.items():
            back[name] = array.transpose(np.argsort(self.network._order(name, array.ndim)))
        return back

    def in_torch(self, seed: int = 0) -> tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Loss, gradients and new buffers of one training step of the module that the seed gives."""
        torch.manual_seed(seed)
        module = type(self.module)().train()
        loss = F.cross_entropy(module(self.inputs), torch.tensor(self.labels))
        loss.backward()
        gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
        return loss.item(), gradients, dict(module.named_buffers())


def seeded(factory):
    """Draws by calling the factory under a seed, like `by_factory`, but without looking after the global generator."""

    def draw(seed: int):
        torch.manual_seed(seed)
        return tensors_of(factory())

    return draw


@functools.cache
def pair(name: str) -> Pair:
    factory, shape = ZOO[name]
    rng = np.random.default_rng(0)
    words = shape is WORDS
    batch = rng.integers(0, 30, (BATCH, *shape), np.int32) if words else rng.normal(size=(BATCH, *shape))
    module = factory()
    return Pair(
        module,
        convert_module(module, shape, draw=seeded(factory), source=name, integers=words),
        batch if words else batch.astype(np.float32),
        rng.integers(0, CLASSES, BATCH),
    )


@pytest.fixture(params=sorted(ZOO))
def both(request) -> Pair:
    """Each network of the zoo in turn."""
    return pair(request.param)
