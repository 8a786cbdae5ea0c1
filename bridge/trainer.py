"""Plain PyTorch training of one network, for targets of challenges and for benchmarks."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bridge.networks import build
from bridge.preprocessing import normalised, resized
from jaxmia.config import Augment, Recipe
from jaxmia.data.kinds import kind_of
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.models import Network


@dataclass(frozen=True)
class Epoch:
    """One pass over the samples, measured in training mode.

    Attributes:
        loss: Mean loss over its steps, in nats.
        accuracy: Accuracy on the augmented samples.
        seconds: Wall-clock time in seconds.
        images: Number of images, including repeated ones.
    """

    loss: float
    accuracy: float
    seconds: float
    images: int


def train_target(
    images: np.ndarray,
    labels: np.ndarray,
    network: Network,
    recipe: Recipe,
    preprocessing: Preprocessing | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    compile: bool = False,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[nn.Module, list[Epoch]]:
    """Trains a fresh network on the given samples.

    Images are resized once, augmented as pixels and then normalised; rows are only normalised. The same seed gives the
    same weights on the same kind of CPU; on accelerators PyTorch's fastest convolutions are used, which are not
    reproducible to the last bit.

    Args:
        images: Images, uint8 in [0, 255] or floats in [0, 1], `[sample, height, width, channel]`; or rows of features.
        labels: Labels, int `[sample]`.
        network: Network to train; only the channels of its shape are used, or for an MLP the whole shape.
        recipe: Recipe of the training. The last batch of an epoch is filled up from the front of its order.
        preprocessing: Preprocessing of samples.
        seed: Seed of initial weights, order and augmentation.
        device: PyTorch's name for the device, on which the samples stay.
        compile: Whether `torch.compile` fuses the network, which needs a C++ compiler and takes up to minutes once.
        on_epoch: Called after each epoch.

    Returns:
        The network in eval mode on the CPU, with averaged weights if the recipe averages them; and its epochs.

    Raises:
        InputError: The samples cannot be augmented according to the recipe.
    """
    preprocessing = preprocessing or Preprocessing()
    place = torch.device(device)
    pixels = resized(preprocessing, images, place)
    kind_of(images).check_augment(recipe.augment, images.shape[1:], "augment")
    targets = torch.tensor(labels, dtype=torch.long, device=place)
    # Drawn on the CPU, so that a seed gives the same weights on every device.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(network)
    module = module.to(place).to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    forward = torch.compile(module) if compile else module
    optimizer = make_optimizer(module, recipe)
    average = [value.detach().clone() for value in module.parameters()] if recipe.ema else []
    generator = torch.Generator(place).manual_seed(seed)
    steps = recipe.epochs * math.ceil(len(pixels) / recipe.batch_size)
    history: list[Epoch] = []
    step = 0
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        for _ in range(recipe.epochs):
            started = time.perf_counter()
            loss = torch.zeros((), device=place)
            correct = torch.zeros((), device=place)
            batches = epoch_batches(len(pixels), recipe.batch_size, generator)
            for index in batches:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, step, steps)
                changed = augment(pixels[index], recipe.augment, generator) if pixels.ndim == 4 else pixels[index]
                batch = normalised(preprocessing, changed)
                value, logits = train_step(forward, optimizer, batch, targets[index], recipe)
                for mean, weight in zip(average, module.parameters(), strict=False):
                    mean.lerp_(weight.detach(), 1 - recipe.ema)
                loss += value
                correct += (logits.argmax(1) == targets[index]).float().mean()
                step += 1
            count = len(batches)
            # Reading a number waits for the device, so the clock is read after it.
            means = loss.item() / count, correct.item() / count
            history.append(Epoch(*means, time.perf_counter() - started, batches.numel()))
            on_epoch(history[-1])
    for mean, weight in zip(average, module.parameters(), strict=False):
        weight.data.copy_(mean)
    return module.to("cpu").to(memory_format=torch.contiguous_format).eval(), history


def train_step(
    forward: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    batch: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Performs one step on a batch of images `[sample, channel, height, width]` or rows `[sample, feature]`.

    Returns:
        Mean cross-entropy in nats of smoothed labels and float32 logits `[sample, class]`, both before the step.
    """
    with torch.autocast(batch.device.type, torch.bfloat16) if _half(recipe, batch.device) else nullcontext():
        logits = forward(batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch)
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach(), logits.detach()


def _half(recipe: Recipe, device: torch.device) -> bool:
    """Whether activations are bfloat16; `auto` selects it on GPUs that multiply it natively."""
    if recipe.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return recipe.precision == "bfloat16"


def make_optimizer(module: nn.Module, recipe: Recipe, *, fused: bool | None = None) -> torch.optim.Optimizer:
    """Creates the recipe's optimizer, which decays kernels, and vectors only on request.

    Args:
        module: Module to train.
        recipe: Kind and constants of the optimizer.
        fused: Whether one kernel does the whole update; None leaves the choice to PyTorch.
    """
    kernels = [value for value in module.parameters() if value.ndim > 1]
    vectors = [value for value in module.parameters() if value.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": recipe.weight_decay if recipe.decay_norm_and_bias else 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, recipe.learning_rate, betas=(recipe.momentum, 0.999), fused=fused)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(groups, recipe.learning_rate, recipe.momentum, nesterov=nesterov, fused=fused)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Learning rate of a step, counted from 0: `jaxmia.training.optimizer.learning_rate` in plain numbers."""
    warmup = steps * recipe.warmup_epochs / recipe.epochs
    if step < warmup:
        return recipe.learning_rate * min((step + 1) / max(warmup, 1), 1)
    if recipe.schedule == "cosine":
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    if recipe.schedule == "piecewise":
        return recipe.learning_rate * recipe.drop ** sum(step >= share * steps for share in recipe.milestones)
    return recipe.learning_rate


def epoch_batches(samples: int, batch_size: int, generator: torch.Generator) -> torch.Tensor:
    """Indices `[step, batch]` of one epoch: a permutation of all samples, filled up from its front to whole batches."""
    order = torch.randperm(samples, generator=generator, device=generator.device)
    steps = math.ceil(samples / batch_size)
    return order.repeat(math.ceil(steps * batch_size / samples))[: steps * batch_size].reshape(steps, batch_size)


def augment(pixels: torch.Tensor, change: Augment, generator: torch.Generator) -> torch.Tensor:
    """Shifts, mirrors and rotates each image `[sample, channel, height, width]` independently at random."""
    count, _, height, width = pixels.shape
    device = pixels.device

    def half() -> torch.Tensor:
        return torch.rand(count, 1, 1, 1, generator=generator, device=device) < 0.5

    if crop := change.crop:
        padded = F.pad(pixels, (crop, crop, crop, crop))
        top, left = torch.randint(2 * crop + 1, (2, count, 1), generator=generator, device=device)
        rows = (top + torch.arange(height, device=device))[:, :, None]
        columns = (left + torch.arange(width, device=device))[:, None, :]
        sample = torch.arange(count, device=device)[:, None, None]
        pixels = padded.permute(0, 2, 3, 1)[sample, rows, columns].permute(0, 3, 1, 2)
    if change.flip or change.dihedral:
        pixels = torch.where(half(), pixels.flip(3), pixels)
    if change.dihedral:
        pixels = torch.where(half(), pixels.flip(2), pixels)
        pixels = torch.where(half(), pixels.transpose(2, 3), pixels)
    return pixels
