import dataclasses
import functools
import math

import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bridge.networks import build
from bridge.target import load_target, save_target
from bridge.trainer import Epoch, TorchRecipe, augment, cosine, epoch_batches, make_optimizer, train_step, train_target
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.models import Network

NETWORK = Network("cnn", (8, 8, 1), 3, width=4)
RECIPE = TorchRecipe(epochs=8, batch_size=16, learning_rate=0.1, crop=1, flip=True, label_smoothing=0.1)


def stripes(count=90, seed=0):
    """Images of three classes: bright above, bright below, bright in the middle."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    images = random.integers(0, 120, (count, 8, 8, 1), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[(0, 5, 3)[label] : (3, 8, 5)[label]] += 120
    return images, labels


def test_it_learns_and_the_history_says_so(tmp_path):
    images, labels = stripes()
    told: list[Epoch] = []
    seen = Preprocessing(12, (0.4,), (0.3,))
    module, history = train_target(images, labels, NETWORK, RECIPE, seen, on_epoch=told.append)
    assert told == history
    assert len(history) == 8
    assert history[-1].loss < 0.7 * history[0].loss
    assert [epoch.images for epoch in history] == [96] * 8
    save_target(module, tmp_path / "model.pt")
    fresh, truth = stripes(seed=1)
    for backend in ("jax", "torch"):
        target = load_target(tmp_path / "model.pt", "cnn", backend=backend, image_size=12, mean=seen.mean, std=seen.std)
        assert (target.query(fresh).argmax(1) == truth).mean() > 0.9


def test_a_seed_is_a_training():
    images, labels = stripes()
    recipe = dataclasses.replace(RECIPE, epochs=2)
    states = [
        train_target(images, labels, NETWORK, dataclasses.replace(recipe, seed=seed))[0].state_dict()
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["conv1.weight"], states[2]["conv1.weight"])


def test_the_caller_s_random_numbers_are_untouched():
    images, labels = stripes(20)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_target(images, labels, NETWORK, dataclasses.replace(RECIPE, epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_batches_hold_every_sample_and_are_filled_from_the_front():
    batches = epoch_batches(10, 4, torch.Generator().manual_seed(0))
    order = batches.flatten().tolist()
    assert sorted(order[:10]) == list(range(10))
    assert order[:10] != list(range(10))
    assert order[10:] == order[:2]
    assert epoch_batches(3, 8, torch.Generator().manual_seed(0)).shape == (1, 8)


def test_the_learning_rate_is_optax_s_cosine():
    schedule = optax.cosine_decay_schedule(0.3, 50)
    for step in range(50):
        assert cosine(0.3, step, 50) == pytest.approx(np.asarray(schedule(step)).item(), abs=1e-7)


@pytest.mark.parametrize("flip", [False, True])
def test_each_image_is_one_of_its_crops(flip):
    images = torch.rand(200, 2, 5, 4, generator=torch.manual_seed(0)) + 0.1
    changed = augment(images, 2, flip, torch.Generator().manual_seed(0))
    padded = F.pad(images, (2, 2, 2, 2))
    found = set()
    for number in range(200):
        for top in range(5):
            for left in range(5):
                crop = padded[number, :, top : top + 5, left : left + 4]
                if torch.equal(changed[number], crop):
                    found.add((top, left, False))
                elif torch.equal(changed[number], crop.flip(2)):
                    found.add((top, left, True))
                else:
                    continue
                break
            else:
                continue
            break
        else:
            pytest.fail(f"image {number} is none of its crops")
    # 50 (25 without mirrors) equally likely outcomes: 200 draws leave few of them out.
    assert len(found) >= (45 if flip else 25)
    assert any(mirrored for *_, mirrored in found) is flip


def test_nothing_asked_changes_nothing():
    images = torch.rand(3, 1, 4, 4)
    assert torch.equal(augment(images, 0, False, torch.Generator()), images)


def test_decay_of_norm_and_bias_is_a_switch():
    for decayed in (True, False):
        module = build(NETWORK)
        optimizer = make_optimizer(module, TorchRecipe(weight_decay=0.25, decay_norm_and_bias=decayed))
        decay = {id(value): group["weight_decay"] for group in optimizer.param_groups for value in group["params"]}
        for name, value in module.named_parameters():
            assert decay[id(value)] == (0.25 if decayed or value.ndim > 1 else 0), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_by_hand(optimizer):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, bias=False)
    module = nn.Sequential(nn.Flatten(), layer)
    weight = layer.weight.detach().double().clone()
    recipe = TorchRecipe(optimizer=optimizer, learning_rate=0.1, weight_decay=0.01, label_smoothing=0.3)
    images, labels = torch.randn(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    chooser = make_optimizer(module, recipe)
    loss, logits = train_step(module, chooser, images, labels, recipe)
    flat = images.flatten(1).double()
    probability = (flat @ weight.T).softmax(1)
    smooth = F.one_hot(labels, 3) * 0.7 + 0.1
    assert loss.item() == pytest.approx(-(smooth * probability.log()).sum(1).mean().item(), rel=1e-5)
    torch.testing.assert_close(logits.double(), flat @ weight.T, rtol=1e-5, atol=1e-5)
    gradient = (probability - smooth).T @ flat / 5
    if optimizer == "sgd":
        expected = weight - 0.1 * 1.9 * (gradient + 0.01 * weight)
    else:
        expected = weight * (1 - 0.1 * 0.01) - 0.1 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(layer.weight.detach().double(), expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_computes_in_half_and_keeps_float32_weights():
    images, labels = stripes()
    recipe = dataclasses.replace(RECIPE, precision="bfloat16", epochs=2)
    module, history = train_target(images, labels, NETWORK, recipe)
    assert all(value.dtype == torch.float32 for value in module.parameters())
    full = train_target(images, labels, NETWORK, dataclasses.replace(recipe, precision="float32"))[1]
    assert history[0].loss != full[0].loss
    assert history[0].loss == pytest.approx(full[0].loss, rel=0.05)
    assert math.isfinite(history[1].loss)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own use of torch.jit
def test_a_compiled_network_trains_the_same(monkeypatch):
    # The graph is captured as ever, and then run as it is: code for this CPU would take a minute to make.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    images, labels = stripes(32)
    recipe = dataclasses.replace(RECIPE, epochs=1)
    plain, compiled = (
        train_target(images, labels, NETWORK, dataclasses.replace(recipe, compile=flag))[1] for flag in (False, True)
    )
    assert compiled[0].loss == pytest.approx(plain[0].loss, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_it_learns_on_an_accelerator():
    images, labels = stripes()
    recipe = dataclasses.replace(RECIPE, device="cuda", precision="bfloat16")
    module, history = train_target(images, labels, NETWORK, recipe)
    assert history[-1].loss < 0.8 * history[0].loss
    assert next(module.parameters()).device.type == "cpu"
