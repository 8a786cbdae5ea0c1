"""How many models to train together, and how their convolutions run."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp

from jaxmia.config import Ensemble as EnsembleSection
from jaxmia.config import Shadow
from jaxmia.errors import InputError
from jaxmia.files import cache_folder, write_text
from jaxmia.models import LOWERINGS, Compute, Lowering, ensemble_conv
from jaxmia.native import build as native
from jaxmia.provenance import digest, processor
from jaxmia.training.devices import Device
from jaxmia.training.measure import Rig, attempt, images_per_second
from jaxmia.training.step import Trainer

_MOST_TOGETHER = 128
_WORTH_IT = 1.05
_HOPELESS = 0.5
_SEARCH_SECONDS, _SEARCH_SECONDS_ON_CPU = 150, 15
_SEARCH_SHARE = 0.2


@dataclass(frozen=True)
class Plan:
    """How an ensemble runs; changes no result.

    Attributes:
        width: Models trained together.
        lowering: What convolutions become.
        sequential: Models one after the other inside the program.
        devices: Where.
    """

    width: int
    lowering: Lowering
    sequential: bool
    devices: tuple[Device, ...]

    def __str__(self) -> str:
        how = "sequential" if self.sequential else self.lowering
        count, device = len(self.devices), self.devices[0].platform
        return f"{self.width} together, convolutions {how}, {count} {device} device{'s' if count > 1 else ''}"

    def applied(self, trainer: Trainer) -> Trainer:
        """The trainer, computing by this plan."""
        return replace(trainer, compute=Compute(trainer.compute.dtype, ensemble_conv(self.lowering)))


def make_plan(
    section: EnsembleSection,
    trainer: Trainer,
    count: int,
    samples: int,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """The plan that the configuration asks for; what it leaves to `auto` is measured on the device at hand.

    Args:
        section: Width, convolution and devices asked for.
        trainer: How one model trains.
        count: Models to train.
        samples: Samples of the pool, half of which a model sees in an epoch: measuring ends after about a fifth of
            the time that training takes.
        say: Told what is measured.

    Raises:
        InputError: More devices are asked for than there are, or kernels that cannot be had.
    """
    devices = make_devices(section)[:count]
    if section.conv == "native" and (reason := _no_kernels(trainer, devices[0].platform)):
        raise InputError(f"ensemble.conv: native: {reason}")
    if section.width != "auto" and section.conv != "auto":
        return plan_of(section.width, section.conv, devices)
    most = min(count, _MOST_TOGETHER)
    images = count * trainer.recipe.epochs * samples // 2
    convs = conv_choices(trainer, devices[0].platform) if section.conv == "auto" else (section.conv,)
    asked = {
        "network": asdict(trainer.network),
        "batch_size": trainer.recipe.batch_size,
        "optimizer": trainer.recipe.optimizer,
        "dtype": str(trainer.compute.dtype),
        "device": devices[0].device_kind if devices[0].platform != "cpu" else processor(),
        "devices": len(devices),
        "width": section.width,
        "convs": convs,
        "most": most,
        "digits of images": len(str(images)),
        "jax": jax.__version__,
    }
    path = cache_folder() / f"plan-{digest(json.dumps(asked, sort_keys=True).encode())}.json"
    try:
        found = json.loads(path.read_text())
        return plan_of(int(found["width"]), found["conv"], devices)
    except (OSError, ValueError, KeyError):
        width, conv, trials = _search(section.width, convs, trainer, devices, most, images, say)
    try:
        write_text(path, json.dumps({"width": width, "conv": conv, "trials": trials, "asked": asked}, indent=2) + "\n")
    except InputError as error:
        say(f"plan: not kept: {error}")
    return plan_of(width, conv, devices)


def make_devices(section: EnsembleSection) -> tuple[Device, ...]:
    """The local devices that the configuration asks for.

    Raises:
        InputError: There are fewer.
    """
    local = jax.local_devices()
    if section.devices != "all" and section.devices > len(local):
        raise InputError(f"ensemble.devices: {section.devices} asked for, {len(local)} found ({local[0].device_kind})")
    return tuple(local if section.devices == "all" else local[: section.devices])


def compute_dtype(shadow: Shadow, device: Device) -> jnp.dtype:
    """float32 or bfloat16, as asked; `auto` is bfloat16 where the device multiplies it natively."""
    if shadow.precision != "auto":
        return jnp.dtype(shadow.precision)
    return jnp.dtype(jnp.bfloat16 if _has_bfloat16(device) else jnp.float32)


def conv_choices(trainer: Trainer, platform: str) -> tuple[str, ...]:
    """What `ensemble.conv` may be on a platform, the likeliest first; loops inside a program are slow on a CPU."""
    if not trainer.network.convolutional:
        return ("unrolled",)
    if platform != "cpu":
        return ("sequential", "unrolled", "matmul", "grouped")
    if _no_kernels(trainer, platform):
        return ("unrolled", "matmul", "grouped")
    return ("native", "unrolled", "matmul")


def _no_kernels(trainer: Trainer, platform: str) -> str | None:
    """Why the kernels of `jaxmia.native` do not serve; None where they do."""
    if platform != "cpu":
        return f"its kernels are for CPUs, this is a {platform}"
    if trainer.compute.dtype != jnp.float32:
        return f"its kernels compute float32, asked for is {trainer.compute.dtype}"
    return native.unavailable()


def _search(
    asked: int | Literal["auto"],
    convs: tuple[str, ...],
    trainer: Trainer,
    devices: tuple[Device, ...],
    most: int,
    images: int,
    say: Callable[[str], None],
) -> tuple[int, str, list[dict[str, Any]]]:
    """Width and convolution by trial: the best convolution at a small width, then twice as wide while that pays."""
    platform = devices[0].platform
    started, patience = time.monotonic(), _SEARCH_SECONDS_ON_CPU if platform == "cpu" else _SEARCH_SECONDS
    say("plan: measuring which way of training together is fastest here")
    trials: list[dict[str, Any]] = []

    def rate(width: int, conv: str) -> float:
        plan = plan_of(width, conv, devices)
        found = attempt(
            lambda: images_per_second(Rig(plan.applied(trainer), plan.width, plan.sequential, plan.devices))
        )
        trials.append({"width": width, "conv": conv, "images_per_second": found})
        say(f"plan: {conv} {width} wide: " + (f"{found:,.0f} images/s" if found else "too little memory"))
        return found or 0.0

    def worth_it() -> bool:
        return not best or time.monotonic() - started < min(patience, _SEARCH_SHARE * images / best)

    width = asked if asked != "auto" else min(4 * len(devices), most)
    best, conv = 0.0, convs[0]
    for choice in convs:
        if not worth_it():
            break
        found = rate(width, choice)
        if found > best:
            best, conv = found, choice
        elif found < _HOPELESS * best:
            break
    while asked == "auto" and 2 * width <= most and worth_it():
        found = rate(2 * width, conv)
        if found < _WORTH_IT * best:
            break
        best, width = found, 2 * width
    return width, conv, trials


def plan_of(width: int, conv: str, devices: tuple[Device, ...]) -> Plan:
    """A plan of at most that width, on at most as many devices, evenly; `conv` as in `ensemble.conv`."""
    devices = devices[:width]
    width -= width % len(devices)
    lowering = cast(Lowering, conv) if conv in LOWERINGS else "unrolled"
    return Plan(width, lowering, conv == "sequential", devices)


def _has_bfloat16(device: Device) -> bool:
    """True on TPUs and on NVIDIA GPUs from compute capability 8.0 (Ampere) on."""
    if device.platform == "tpu":
        return True
    capability = getattr(device, "compute_capability", None)
    return device.platform in ("gpu", "cuda") and capability is not None and float(capability) >= 8.0
