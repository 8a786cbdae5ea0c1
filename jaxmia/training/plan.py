"""How many models to train together, and how their convolutions run."""

from dataclasses import dataclass, replace
from typing import cast

from jaxmia.models import LOWERINGS, Compute, Lowering, ensemble_conv
from jaxmia.training.devices import Device
from jaxmia.training.trainer import Trainer


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

    def lower(self, trainer: Trainer) -> Trainer:
        """The trainer, its convolutions as this plan has them."""
        return replace(trainer, compute=Compute(trainer.compute.dtype, ensemble_conv(self.lowering)))


def plan_of(width: int, conv: str, devices: tuple[Device, ...]) -> Plan:
    """A plan of at most that width, on at most as many devices, evenly; `conv` as in `ensemble.conv`."""
    devices = devices[:width]
    width -= width % len(devices)
    lowering = cast(Lowering, conv) if conv in LOWERINGS else "unrolled"
    return Plan(width, lowering, conv == "sequential", devices)
