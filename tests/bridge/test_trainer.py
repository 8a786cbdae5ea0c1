import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bridge.networks import build
from bridge.target import load_target, save_target
from bridge.trainer import Epoch, augment, epoch_batches, learning_rate, make_optimizer, train_step, train_target
from jaxmia.config import Augment, Recipe
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.errors import InputError
from jaxmia.models import Network
from jaxmia.training import optimizer as in_jax

NETWORK = Network("cnn", (8, 8, 1), 3, width=4)
RECIPE = Recipe(architecture="cnn", epochs=8, batch_size=16, label_smoothing=0.1, augment=Augment(crop=1, flip=True))


def changed(**fields):
    return RECIPE.model_copy(update=fields)


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
    states = [train_target(images, labels, NETWORK, changed(epochs=2), seed=seed)[0].state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["conv1.weight"], states[2]["conv1.weight"])


def test_the_caller_s_random_numbers_are_untouched():
    images, labels = stripes(20)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_target(images, labels, NETWORK, changed(epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_batches_hold_every_sample_and_are_filled_from_the_front():
    batches = epoch_batches(10, 4, torch.Generator().manual_seed(0))
    order = batches.flatten().tolist()
    assert sorted(order[:10]) == list(range(10))
    assert order[:10] != list(range(10))
    assert order[10:] == order[:2]
    assert epoch_batches(3, 8, torch.Generator().manual_seed(0)).shape == (1, 8)


@pytest.mark.parametrize("warmup_epochs", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("schedule", ["cosine", "piecewise", "constant"])
def test_the_learning_rate_is_that_of_the_shadows(schedule, warmup_epochs):
    recipe = Recipe(
        epochs=5, learning_rate=0.3, schedule=schedule, warmup_epochs=warmup_epochs, milestones=(0.5, 0.8), drop=0.2
    )
    for steps in (5, 35):
        expected = in_jax.learning_rate(recipe, 0.3, np.arange(steps), np.array(steps))
        found = [learning_rate(recipe, step, steps) for step in range(steps)]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_the_average_of_the_weights_is_the_one_written_out():
    """With a constant rate and one step an epoch, shorter trainings are the steps of the longer one."""
    images, labels = stripes(16)

    def weights(epochs, ema=0.0):
        recipe = changed(epochs=max(epochs, 1), schedule="constant", ema=ema, learning_rate=0.1 if epochs else 1e-30)
        module, _ = train_target(images, labels, NETWORK, recipe.model_copy(update={"weight_decay": 0.0}))
        return torch.cat([value.detach().flatten() for value in module.parameters()])

    expected = weights(0)
    for epochs in (1, 2, 3):
        expected = 0.7 * expected + 0.3 * weights(epochs)
    torch.testing.assert_close(weights(3, ema=0.7), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(weights(3), expected, atol=1e-3)


@pytest.mark.parametrize("flip", [False, True])
def test_each_image_is_one_of_its_crops(flip):
    images = torch.rand(200, 2, 5, 4, generator=torch.manual_seed(0)) + 0.1
    moved = augment(images, Augment(crop=2, flip=flip), torch.Generator().manual_seed(0))
    padded = F.pad(images, (2, 2, 2, 2))
    found = set()
    for number in range(200):
        for top in range(5):
            for left in range(5):
                crop = padded[number, :, top : top + 5, left : left + 4]
                if torch.equal(moved[number], crop):
                    found.add((top, left, False))
                elif torch.equal(moved[number], crop.flip(2)):
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
    assert torch.equal(augment(images, Augment(), torch.Generator()), images)


def test_each_image_is_one_of_the_square_s_symmetries():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    turned = augment(image.expand(80, 1, 3, 3), Augment(dihedral=True), torch.Generator().manual_seed(0))
    found = {tuple(one.flatten().tolist()) for one in turned}
    eight = [image.rot90(turns, (2, 3)) for turns in range(4)]
    assert found == {tuple(one.flatten().tolist()) for one in (*eight, *(one.flip(3) for one in eight))}


def test_symmetries_of_the_square_need_square_images():
    images, labels = np.zeros((4, 6, 8, 1), np.uint8), np.zeros(4, np.int64)
    with pytest.raises(InputError, match=r"augment: images are 6 x 8; dihedral needs square ones"):
        train_target(images, labels, NETWORK, changed(augment=Augment(dihedral=True)))


def test_decay_of_norm_and_bias_is_a_switch():
    for decayed in (True, False):
        module = build(NETWORK)
        optimizer = make_optimizer(module, changed(weight_decay=0.25, decay_norm_and_bias=decayed))
        decay = {id(value): group["weight_decay"] for group in optimizer.param_groups for value in group["params"]}
        for name, value in module.named_parameters():
            assert decay[id(value)] == (0.25 if decayed or value.ndim > 1 else 0), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_by_hand(optimizer):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, bias=False)
    module = nn.Sequential(nn.Flatten(), layer)
    weight = layer.weight.detach().double().clone()
    recipe = Recipe(optimizer=optimizer, learning_rate=0.1, weight_decay=0.01, label_smoothing=0.3)
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
    module, history = train_target(images, labels, NETWORK, changed(precision="bfloat16", epochs=2))
    assert all(value.dtype == torch.float32 for value in module.parameters())
    full = train_target(images, labels, NETWORK, changed(precision="float32", epochs=2))[1]
    assert history[0].loss != full[0].loss
    assert history[0].loss == pytest.approx(full[0].loss, rel=0.05)
    assert math.isfinite(history[1].loss)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own use of torch.jit
def test_a_compiled_network_trains_the_same(monkeypatch):
    # The graph is captured as ever, and then run as it is: code for this CPU would take a minute to make.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    images, labels = stripes(32)
    plain, compiled = (
        train_target(images, labels, NETWORK, changed(epochs=1), compile=flag)[1] for flag in (False, True)
    )
    assert compiled[0].loss == pytest.approx(plain[0].loss, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_it_learns_on_an_accelerator():
    images, labels = stripes()
    module, history = train_target(images, labels, NETWORK, changed(precision="bfloat16"), device="cuda")
    assert history[-1].loss < 0.8 * history[0].loss
    assert next(module.parameters()).device.type == "cpu"
