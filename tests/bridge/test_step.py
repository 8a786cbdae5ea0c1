"""Training in JAX against training in PyTorch: same weights, same batches."""

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from flax.traverse_util import flatten_dict

from bridge.convert import to_nnx
from bridge.networks import build
from bridge.trainer import learning_rate, make_optimizer, train_step
from jaxmia.config import Recipe
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.models import Network
from jaxmia.models.small import Hidden
from jaxmia.training.optimizer import hyper_of
from jaxmia.training.optimizer import make_optimizer as make_jax_optimizer
from jaxmia.training.trainer import Trainer
from tests.bridge.test_convert import names

NETWORKS = [
    Network("mlp", (6, 6, 2), 4, width=16),
    *[
        Network("mlp", (6, 6, 2), 4, hidden=Hidden((12, 8), activation, norm))
        for activation, norm in (("tanh", "batch"), ("gelu", "layer"), ("silu", "none"), ("sigmoid", "none"))
    ],
    Network("cnn", (8, 8, 3), 4, width=4),
    Network("resnet8", (8, 8, 3), 4, width=4),
    Network("wideresnet", (8, 8, 3), 4, width=1, depth=10),
]
MEAN, STD, SMOOTHING = (0.4,), (0.25,), 0.1
STEPS = 4


def pool(network):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (32, *network.shape), np.uint8), random.integers(0, network.classes, 32)


def seen(images):
    return torch.tensor((images / 255 - MEAN[0]) / STD[0], dtype=torch.float32).permute(0, 3, 1, 2)


def split(network, state):
    """Weights and batch statistics of a `state_dict`, as `Trainer` takes them."""
    _, params, stats = nnx.split(to_nnx(network, state), nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def trainer(network, **changes):
    recipe = Recipe(
        architecture=network.architecture, epochs=STEPS, learning_rate=0.1, label_smoothing=SMOOTHING, **changes
    )
    return Trainer(network, recipe, Preprocessing(None, MEAN, STD))


@pytest.mark.parametrize("network", NETWORKS, ids=names)
def test_loss_and_gradients_of_one_batch(network):
    torch.manual_seed(0)
    module = build(network).train()
    params, stats = split(network, module.state_dict())
    images, labels = pool(network)
    loss = F.cross_entropy(module(seen(images)), torch.tensor(labels), label_smoothing=SMOOTHING)
    loss.backward()
    one = trainer(network)
    batch = one.preprocessing.normalised(jax.numpy.asarray(images), one.compute.dtype)
    (ours, _), gradients = jax.jit(jax.value_and_grad(one.loss, has_aux=True))(
        params, stats, batch, jax.numpy.asarray(labels), SMOOTHING, jax.random.key(0)
    )
    assert float(ours) == pytest.approx(loss.item(), rel=1e-5)
    theirs, _ = split(network, {**module.state_dict(), **{name: w.grad for name, w in module.named_parameters()}})
    gradients = flatten_dict(gradients)
    for path, value in flatten_dict(theirs).items():
        largest = abs(value).max()
        assert largest > 1e-4, path
        np.testing.assert_allclose(gradients[path], value, rtol=0, atol=1e-4 * largest, err_msg=str(path))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("decay_norm_and_bias", [False, True])
@pytest.mark.parametrize("network", NETWORKS[:2], ids=names)
def test_weights_and_statistics_after_some_steps(network, optimizer, decay_norm_and_bias):
    settings = {"weight_decay": 0.05, "decay_norm_and_bias": decay_norm_and_bias, "optimizer": optimizer}
    torch.manual_seed(0)
    module = build(network).train()
    params, stats = split(network, module.state_dict())
    one = trainer(network, **settings)
    images, labels = pool(network)
    batches = np.random.default_rng(1).integers(0, 32, (STEPS, 16)).astype(np.int32)
    hyper = hyper_of(one.recipe)
    state = {
        "params": params,
        "stats": stats,
        "optimizer": make_jax_optimizer(one.recipe, hyper, 0.0).init(params),
    }
    step = jax.jit(one.step)
    chooser = make_optimizer(module, one.recipe)
    for number, index in enumerate(batches):
        state, metrics = step(state, hyper, jax.random.key(0), images, labels, index, number, STEPS)
        for group in chooser.param_groups:
            group["lr"] = learning_rate(one.recipe, number, STEPS)
        loss, logits = train_step(module, chooser, seen(images[index]), torch.tensor(labels[index]), one.recipe)
        assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-3)
        assert float(metrics["accuracy"]) == (logits.argmax(1).numpy() == labels[index]).mean()
    for ours, theirs in zip((state["params"], state["stats"]), split(network, module.state_dict()), strict=True):
        ours = flatten_dict(ours)
        for path, value in flatten_dict(theirs).items():
            np.testing.assert_allclose(ours[path], value, rtol=1e-3, atol=1e-3, err_msg=str(path))
