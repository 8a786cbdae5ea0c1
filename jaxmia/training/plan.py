"""Plans how many models train at once, and how their convolutions are lowered."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from jaxmia.models import LOWERINGS, Compute, Lowering, ensemble_attention, ensemble_conv, ensemble_dense, ensemble_norm
from jaxmia.models.native import build as native
from jaxmia.provenance import origin
from jaxmia.training.devices import Device, core_count
from jaxmia.training.optimizer import ensemble_update
from jaxmia.training.trainer import Trainer

Value = TypeVar("Value")


@dataclass(frozen=True)
class Plan:
    """Plan by which an ensemble is trained, without effect on the results beyond rounding.

    Attributes:
        width: Number of models trained at once.
        lowering: Lowering of convolutions.
        sequential: Whether the program computes the models one after another.
        devices: Devices over which the models are sharded.
        framework: Framework that trains the models in place of JAX, one after another.
    """

    width: int
    lowering: Lowering
    sequential: bool
    devices: tuple[Device, ...]
    framework: str | None = None

    def __str__(self) -> str:
        if self.framework:
            return f"one after another in {self.framework}"
        how = "sequential" if self.sequential else self.lowering
        count, device = len(self.devices), self.devices[0].platform
        return f"{self.width} at a time, convolutions {how}, {count} {device} device{'s' if count > 1 else ''}"

    @property
    def threads(self) -> int:
        """Threads with which the C++ kernels compute on each device: its share of the cores."""
        return max(1, core_count() // len(self.devices))

    def provenance(self) -> dict[str, Any]:
        """This plan, the kernels if it uses them, and the `origin` of what is trained by it, as plain JSON."""
        kernels = {"kernels": native.description()} if self.lowering == "native" else {}
        return {"plan": str(self), **kernels, **origin()}

    def padded(self, each: Sequence[Value]) -> list[Value]:
        """Pads a list with an entry for each model to a multiple of the number of devices, by repeating the last."""
        return [*each, *[each[-1]] * (-len(each) % len(self.devices))]

    def lower(self, trainer: Trainer) -> Trainer:
        """Returns the trainer with its layers and its optimizer lowered according to this plan."""
        lowering, threads = self.lowering, self.threads
        compute = Compute(
            trainer.compute.dtype,
            ensemble_conv(lowering, threads),
            ensemble_norm(lowering, threads),
            ensemble_dense(lowering),
            ensemble_attention(lowering),
        )
        return replace(trainer, compute=compute, update=ensemble_update(self.lowering))


def plan_of(width: int, conv: str, devices: tuple[Device, ...]) -> Plan:
    """Makes a plan of at most the given width, a multiple of the devices used; `conv` is as in `ensemble.conv`."""
    devices = devices[:width]
    width -= width % len(devices)
    lowering = cast(Lowering, conv) if conv in LOWERINGS else "unrolled"
    return Plan(width, lowering, conv == "sequential", devices)
