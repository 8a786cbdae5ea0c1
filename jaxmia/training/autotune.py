"""Measures how many models to train together and how to lower their convolutions."""

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from pydantic import BaseModel, Field

from jaxmia.config import EnsembleConfig
from jaxmia.errors import InputError, InvalidFields, UnreadableFile, UnwritableFile
from jaxmia.files import cache_folder, read_json, write_text
from jaxmia.models import Network
from jaxmia.models.native import build as native
from jaxmia.provenance import digest, processor
from jaxmia.training.devices import Device, make_devices
from jaxmia.training.ensemble import ForeignNetwork
from jaxmia.training.measure import StepTimer, attempt, images_per_second
from jaxmia.training.plan import Plan, plan_of
from jaxmia.training.trainer import Trainer
from jaxmia.validation import parse_as

logger = logging.getLogger(__name__)


_MAX_WIDTH = 128
"""Largest number of models that `ensemble.width: auto` trains at once."""

_MIN_GAIN = 1.05
"""Factor by which twice the width must be faster for the search to go on; it needs twice the memory."""

_FAR_SLOWER = 0.5
"""Fraction of the best speed below which a lowering is so slow that the others are not tried."""

_SEARCH_SECONDS, _SEARCH_SECONDS_ON_CPU = 150, 15
"""Time after which no further measurement begins. Programs for accelerators take longer to compile."""

_SEARCH_SHARE = 0.2
"""Largest share of the estimated training time that the search may take, so that small runs start soon."""


def make_plan(
    section: EnsembleConfig,
    trainer: Trainer,
    count: int,
    samples: int,
) -> Plan:
    """Makes the configured plan; what is set to `auto` is measured on the available devices.

    Args:
        section: Configured width, convolution and devices.
        trainer: Trainer of one model.
        count: Number of models to train.
        samples: Number of samples in the pool, half of which a model sees in an epoch. The measurement is limited to
            about a fifth of the resulting training time.

    Raises:
        InputError: More devices are requested than exist, or the native kernels are requested but unavailable.
    """
    devices = make_devices(section)[:count]
    if isinstance(trainer.network, ForeignNetwork):
        return replace(plan_of(1, "sequential", devices), framework=trainer.network.framework)
    if section.conv == "native" and (reason := _no_kernels(trainer, devices[0].platform)):
        raise InputError(f"ensemble.conv: native: {reason}")
    if section.width != "auto" and section.conv != "auto":
        return plan_of(section.width, section.conv, devices)
    most = min(count, _MAX_WIDTH)
    images = count * trainer.recipe.epochs * samples // 2
    convs = conv_choices(trainer, devices[0].platform) if section.conv == "auto" else (section.conv,)
    key = {
        "network": trainer.network.describe(),
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
        "kernels": f"{native.sources_digest()} {native.description()}" if "native" in convs else None,
    }
    path = cache_folder() / f"plan-{digest(json.dumps(key, sort_keys=True).encode())}.json"
    kept = _kept_plan(path)
    if kept and kept.conv in convs and (kept.width <= most if section.width == "auto" else kept.width == section.width):
        return plan_of(kept.width, kept.conv, devices)
    width, conv, trials = _search(section.width, convs, trainer, devices, most, images)
    try:
        write_text(
            path, json.dumps({"width": width, "conv": conv, "trials": trials, "cache_key": key}, indent=2) + "\n"
        )
    except UnwritableFile as error:
        logger.warning(f"plan: not cached: {error}")
    return plan_of(width, conv, devices)


class _KeptPlan(BaseModel):
    """Result of a search as it is read from the cache."""

    width: Annotated[int, Field(ge=1, strict=True)]
    conv: str


def _kept_plan(path: Path) -> _KeptPlan | None:
    """Reads a cached result; None if there is none or it is not valid."""
    try:
        return parse_as(_KeptPlan, read_json(path, "jaxmia run"), str(path))
    except (UnreadableFile, InvalidFields):
        return None


def conv_choices(trainer: Trainer, platform: str) -> tuple[str, ...]:
    """Candidates for `ensemble.conv` on a platform, the most promising first."""
    has_kernels = platform == "cpu" and _no_kernels(trainer, platform) is None
    network = trainer.network
    if not network.convolutional:
        convs = ("native", "unrolled") if has_kernels and network.dense else ("unrolled",)
    elif platform != "cpu":
        return ("sequential", "unrolled", "matmul", "grouped")
    else:
        convs = ("native", "unrolled", "matmul") if has_kernels else ("unrolled", "matmul", "grouped")
    return convs if isinstance(network, Network) else (convs[0], "sequential", *convs[1:])


def _no_kernels(trainer: Trainer, platform: str) -> str | None:
    """Why the kernels of `jaxmia.models.native` cannot be used; None if they can."""
    if platform != "cpu":
        return f"its kernels are for CPUs, this device is a {platform}"
    native.warn_of_shortcoming()
    if reason := native.unavailable():
        return reason
    if trainer.compute.dtype == jnp.bfloat16 and not native.multiplies_bfloat16():
        return "the precision is bfloat16, which this processor does not multiply"
    return None


def _search(
    width_asked: int | Literal["auto"],
    convs: tuple[str, ...],
    trainer: Trainer,
    devices: tuple[Device, ...],
    most: int,
    images: int,
) -> tuple[int, str, list[dict[str, Any]]]:
    """Searches for the fastest width and convolution: first the convolution at a small width, then doubling widths."""
    platform = devices[0].platform
    started, patience = time.monotonic(), _SEARCH_SECONDS_ON_CPU if platform == "cpu" else _SEARCH_SECONDS
    logger.info("plan: measuring the fastest way to train several models at once")
    trials: list[dict[str, Any]] = []

    def rate(width: int, conv: str) -> float:
        plan = plan_of(width, conv, devices)
        found = attempt(lambda: images_per_second(StepTimer(trainer, plan)))
        trials.append({"width": width, "conv": conv, "images_per_second": found})
        logger.info(f"plan: {conv}, width {width}: " + (f"{found:,.0f} images/s" if found else "out of memory"))
        return found or 0.0

    def worth_it() -> bool:
        return not best or time.monotonic() - started < min(patience, _SEARCH_SHARE * images / best)

    width = width_asked if width_asked != "auto" else min(4 * len(devices), most)
    best, conv, far_slower = 0.0, convs[0], False
    for choice in convs:
        if not worth_it():
            break
        # If one lowering under `vmap` is slow, the others probably are too; training one after another need not be.
        if far_slower and choice != "sequential":
            continue
        found = rate(width, choice)
        if found > best:
            best, conv = found, choice
        elif found < _FAR_SLOWER * best and choice != "sequential":
            far_slower = True
    vmapped = max((trial["images_per_second"] or 0.0 for trial in trials if trial["conv"] != "sequential"), default=0.0)
    if conv == "sequential" and vmapped:
        logger.info(
            f"plan: models of this network train faster one after another ({best:,.0f} images/s) than by vmap "
            f"({vmapped:,.0f} images/s)"
        )
    while width_asked == "auto" and 2 * width <= most and worth_it():
        found = rate(2 * width, conv)
        if found < _MIN_GAIN * best:
            break
        best, width = found, 2 * width
    return width, conv, trials
