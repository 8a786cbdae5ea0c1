"""How many models to train together, and how their convolutions run."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxmia.config import Ensemble as EnsembleSection
from jaxmia.config import Shadow
from jaxmia.errors import InputError
from jaxmia.models.conv import Lowering


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
    devices: tuple[jax.Device, ...]  # pyright: ignore[reportInvalidTypeForm]


def make_plan(section: EnsembleSection, count: int) -> Plan:
    """The plan that the configuration asks for, with `auto` filled in for the device at hand.

    Raises:
        InputError: More devices are asked for than there are.
    """
    local = jax.local_devices()
    if section.devices != "all" and section.devices > len(local):
        raise InputError(f"ensemble.devices: {section.devices} asked for, {len(local)} found ({local[0].device_kind})")
    devices = tuple(local if section.devices == "all" else local[: section.devices])
    width = (8 if devices[0].platform == "cpu" else 32) if section.width == "auto" else section.width
    width = min(width, count)
    width = max(width - width % len(devices), len(devices))
    conv = "unrolled" if section.conv == "auto" else section.conv
    sequential = conv == "sequential"
    return Plan(width, "unrolled" if conv == "sequential" else conv, sequential, devices)


def compute_dtype(shadow: Shadow, device: jax.Device) -> jnp.dtype:  # pyright: ignore[reportInvalidTypeForm]
    """float32 or bfloat16, as asked; `auto` is bfloat16 where the device multiplies it natively."""
    if shadow.precision != "auto":
        return jnp.dtype(shadow.precision)
    return jnp.dtype(jnp.bfloat16 if _has_bfloat16(device) else jnp.float32)


def _has_bfloat16(device: jax.Device) -> bool:  # pyright: ignore[reportInvalidTypeForm]
    """True on TPUs and on NVIDIA GPUs from compute capability 8.0 (Ampere) on."""
    if device.platform == "tpu":
        return True
    capability = getattr(device, "compute_capability", None)
    return device.platform in ("gpu", "cuda") and capability is not None and float(capability) >= 8.0
