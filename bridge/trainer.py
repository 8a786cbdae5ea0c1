"""Plain PyTorch training of one network: makes the target of a challenge, and is the peer of the benchmark."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bridge.networks import build
from bridge.preprocessing import normalised, resized
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.models import Network


@dataclass(frozen=True)
class TorchRecipe:
    """How a network is trained.

    Attributes:
        epochs: Passes over the samples.
        batch_size: Samples a step; the last batch of an epoch is filled up from the front of its order.
        optimizer: `sgd` has Nesterov momentum.
        learning_rate: At the first step; it falls to 0 along a cosine.
        momentum: Of `sgd`; the first decay rate of `adamw`.
        weight_decay: Added to the gradient (`sgd`) or decoupled from it (`adamw`).
        decay_norm_and_bias: Decay normalisation layers and biases as well, as PyTorch does by default.
        label_smoothing: Share of the label spread evenly over all classes.
        crop: Pixels by which an image may move in each direction; black comes in.
        flip: Mirror left and right half of the time.
        seed: Of initial weights, order and augmentation.
        device: PyTorch's name of the device; the samples stay on it.
        precision: Type of activations.
        compile: Let `torch.compile` fuse the network; it needs a C++ compiler and minutes once.
    """

    epochs: int = 60
    batch_size: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = True
    label_smoothing: float = 0.0
    crop: int = 0
    flip: bool = False
    seed: int = 0
    device: str = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False


@dataclass(frozen=True)
class Epoch:
    """One pass over the samples, measured in training mode.

    Attributes:
        loss: Mean over its steps, in nats.
        accuracy: Share of augmented samples classified rightly.
        seconds: Wall-clock time.
        images: Images seen, repeated ones too.
    """

    loss: float
    accuracy: float
    seconds: float
    images: int


def train_target(
    images: np.ndarray,
    labels: np.ndarray,
    network: Network,
    recipe: TorchRecipe,
    preprocessing: Preprocessing | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[nn.Module, list[Epoch]]:
    """Trains a fresh network on all the samples given.

    Images are resized once, augmented as pixels and then normalised. The same seed gives the same weights on the same
    kind of CPU; on an accelerator PyTorch's fastest convolutions are used, which are not reproducible to the last bit.

    Args:
        images: uint8 in [0, 255] or floats in [0, 1], `[sample, height, width, channel]`.
        labels: int `[sample]`.
        network: What to train; of its shape only the channels count, or for an MLP all.
        recipe: How.
        preprocessing: Pixels to what the network sees.
        on_epoch: Told after each epoch.

    Returns:
        The network in eval mode, on the CPU; and its epochs.
    """
    preprocessing = preprocessing or Preprocessing()
    device = torch.device(recipe.device)
    pixels = resized(preprocessing, images, device)
    targets = torch.tensor(labels, dtype=torch.long, device=device)
    # Drawn on the CPU, so that a seed is one choice of weights on every device.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        module = build(network)
    module = module.to(device).to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    forward = torch.compile(module) if recipe.compile else module
    optimizer = make_optimizer(module, recipe)
    generator = torch.Generator(device).manual_seed(recipe.seed)
    steps = recipe.epochs * math.ceil(len(pixels) / recipe.batch_size)
    history: list[Epoch] = []
    step = 0
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        for _ in range(recipe.epochs):
            started = time.perf_counter()
            loss = torch.zeros((), device=device)
            correct = torch.zeros((), device=device)
            batches = epoch_batches(len(pixels), recipe.batch_size, generator)
            for index in batches:
                for group in optimizer.param_groups:
                    group["lr"] = cosine(recipe.learning_rate, step, steps)
                batch = normalised(preprocessing, augment(pixels[index], recipe.crop, recipe.flip, generator))
                value, logits = train_step(forward, optimizer, batch, targets[index], recipe)
                loss += value
                correct += (logits.argmax(1) == targets[index]).float().mean()
                step += 1
            count = len(batches)
            # Reading a number waits for the device, so the clock is read after it.
            means = loss.item() / count, correct.item() / count
            history.append(Epoch(*means, time.perf_counter() - started, batches.numel()))
            on_epoch(history[-1])
    return module.to("cpu").to(memory_format=torch.contiguous_format).eval(), history


def train_step(
    forward: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    batch: torch.Tensor,
    labels: torch.Tensor,
    recipe: TorchRecipe,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step on one batch `[sample, channel, height, width]`.

    Returns:
        Mean cross-entropy in nats of smoothed labels and float32 logits `[sample, class]`, both before the step.
    """
    half = recipe.precision == "bfloat16"
    with torch.autocast(batch.device.type, torch.bfloat16) if half else nullcontext():
        logits = forward(batch.contiguous(memory_format=torch.channels_last))
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach(), logits.detach()


def make_optimizer(module: nn.Module, recipe: TorchRecipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; kernels are decayed, vectors only on request."""
    kernels = [value for value in module.parameters() if value.ndim > 1]
    vectors = [value for value in module.parameters() if value.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": recipe.weight_decay if recipe.decay_norm_and_bias else 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, recipe.learning_rate, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, recipe.learning_rate, recipe.momentum, nesterov=recipe.momentum > 0)


def cosine(peak: float, step: int, steps: int) -> float:
    """Learning rate of the step, counted from 0."""
    return peak * 0.5 * (1 + math.cos(math.pi * step / steps))


def epoch_batches(samples: int, batch_size: int, generator: torch.Generator) -> torch.Tensor:
    """Indices `[step, batch]` of one epoch: an order of all samples, filled up from its front to whole batches."""
    order = torch.randperm(samples, generator=generator, device=generator.device)
    steps = math.ceil(samples / batch_size)
    return order.repeat(math.ceil(steps * batch_size / samples))[: steps * batch_size].reshape(steps, batch_size)


def augment(pixels: torch.Tensor, crop: int, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Moves and mirrors each image `[sample, channel, height, width]` by chance of its own."""
    count, _, height, width = pixels.shape
    device = pixels.device
    if crop:
        padded = F.pad(pixels, (crop, crop, crop, crop))
        top, left = torch.randint(2 * crop + 1, (2, count, 1), generator=generator, device=device)
        rows = (top + torch.arange(height, device=device))[:, :, None]
        columns = (left + torch.arange(width, device=device))[:, None, :]
        sample = torch.arange(count, device=device)[:, None, None]
        pixels = padded.permute(0, 2, 3, 1)[sample, rows, columns].permute(0, 3, 1, 2)
    if flip:
        chosen = torch.rand(count, 1, 1, 1, generator=generator, device=device) < 0.5
        pixels = torch.where(chosen, pixels.flip(3), pixels)
    return pixels
