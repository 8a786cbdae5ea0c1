"""The command that measures throughput."""

import functools
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from jaxmia.errors import UsageError, one_line

if TYPE_CHECKING:
    from jaxmia.config import Config
    from jaxmia.machine.bench import Constants, Contender
    from jaxmia.training.trainer import Trainer

logger = logging.getLogger(__name__)

Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclass
class Bench:
    """Measures training throughput on this machine in images/s, by lowering and width; needs no data.

    Example: jaxmia bench --peers --out runs/bench --shadow.architecture resnet8 --shadow.batch_size 64
    """

    config: Path | None = None
    """Configuration (YAML) whose shadow section is timed; any field can be overridden."""
    out: Path | None = None
    """Folder for bench.json, bench.md and bench.png."""
    shape: tuple[int, int, int] = (32, 32, 3)
    """Height, width and channels of an image."""
    classes: int = 9
    """Number of classes."""
    widths: tuple[int, ...] = ()
    """Numbers of models to train at once; by default 1, 2, 4, ... up to what is sensible on this device."""
    repeats: int = 5
    """Number of timed repeats; the variants take turns."""
    seconds: float = 1.0
    """Minimum duration of a repeat, in seconds."""
    peers: Switch = False
    """Also time plain vmap and PyTorch: eager, compiled, float32, bfloat16, one process per core, torch.func."""
    json: Switch = False
    """Print JSON instead of a table."""
    compare: tuple[Path, ...] = ()
    """Compare the JSON files of several machines instead of measuring."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Runs the benchmark."""
        from jaxmia.cli.display import bench_table, comparison_table, output

        if self.compare:
            from jaxmia.machine.bench import load

            output(comparison_table([load(path) for path in self.compare]))
            return
        if min((self.repeats, *self.widths, *self.shape, self.classes - 1)) < 1 or not 0 < self.seconds < 3600:
            raise UsageError(
                "--repeats, --widths and --shape must be at least 1, --classes at least 2, --seconds above 0"
            )
        from jaxmia.cli.overrides import configure
        from jaxmia.data.preprocessing import Preprocessing
        from jaxmia.files import json_text, write_text
        from jaxmia.machine.bench import OURS, describe, fastest, page, plot, run
        from jaxmia.training.devices import prepare_devices
        from jaxmia.training.trainer import make_trainer

        config = configure(self.config, overrides)
        prepare_devices()
        trainer = make_trainer(config.shadow, self.shape, self.classes, Preprocessing())
        constants = _constants(trainer, config)
        contenders = self._contenders(trainer, config)
        rows = run(contenders, constants, repeats=self.repeats, seconds=self.seconds)
        subject = {
            "shape": self.shape,
            "classes": self.classes,
            "shadow": config.shadow.model_dump(mode="json"),
            "repeats": self.repeats,
            "seconds": self.seconds,
        }
        result = describe(rows, constants, subject)
        if best := fastest(result["rows"], OURS):
            result["step"] = _profile(contenders[result["rows"].index(best)], self.seconds)
        if self.out:
            write_text(self.out / "bench.json", json_text(result, indent=2) + "\n")
            write_text(self.out / "bench.md", page(result))
            plot(result, self.out / "bench.png")
        output(json_text(result, indent=2) if self.json else bench_table(result))

    def _contenders(self, trainer: "Trainer", config: "Config") -> list["Contender"]:
        from jaxmia.machine.bench import OURS, Contender, name_of
        from jaxmia.training.autotune import conv_choices
        from jaxmia.training.devices import make_devices
        from jaxmia.training.measure import StepTimer
        from jaxmia.training.plan import plan_of

        devices = make_devices(config.ensemble)
        platform = devices[0].platform
        default = (1, 2, 4, 8, 16, 32, 64) if platform != "cpu" else tuple(len(devices) * n for n in (1, 2, 4, 8))
        # Plain `vmap` is timed as a peer; beyond a few models it takes minutes.
        convs = tuple(conv for conv in conv_choices(trainer, platform) if conv != "grouped")
        contenders = []
        for conv in convs if config.ensemble.conv == "auto" else (config.ensemble.conv,):
            for width in self.widths or default:
                used = devices[: min(width, len(devices))]
                plan = plan_of(width, conv, used)
                name = name_of(conv, trainer.network.convolutional)
                make = functools.partial(StepTimer, trainer, plan)
                contenders.append(Contender(name, OURS, plan.width, str(trainer.compute.dtype), make))
        if self.peers:
            contenders += _peers(trainer, config)
        return contenders


def _profile(contender: "Contender", seconds: float) -> dict[str, Any] | None:
    """Profiles one of jaxmia's methods, as plain JSON; None if that is not possible."""
    from jaxmia.machine.breakdown import profile
    from jaxmia.training.measure import StepTimer

    logger.info(f"profile: {contender.name}, {contender.width} models")
    timer = contender.make()
    assert isinstance(timer, StepTimer)
    try:
        found = profile(timer, contender.name, seconds)
    except (MemoryError, RuntimeError) as error:
        logger.warning(f"profile: not available: {one_line(error)}")
        return None
    return asdict(found) if found else None


def _peers(trainer: "Trainer", config: "Config") -> list["Contender"]:
    from bridge.peers import find_peers
    from jaxmia.machine.bench import OTHER, PYTORCH, Contender
    from jaxmia.models import Network
    from jaxmia.training.devices import core_count

    recipe = config.shadow.model_copy(update={"precision": str(trainer.compute.dtype)})
    if not isinstance(trainer.network, Network):
        return []
    return [
        Contender(
            peer.name, OTHER if peer.way == "vmap" else PYTORCH, peer.width, str(peer.recipe.precision), peer.start
        )
        for peer in find_peers(trainer.network, recipe, _torch_device(), core_count())
    ]


def _constants(trainer: "Trainer", config: "Config") -> "Constants":
    from jaxmia.machine.bench import Constants
    from jaxmia.machine.ceiling import training_flops_per_image

    return Constants(training_flops_per_image(trainer), _ceilings(), 14_000 * config.shadow.epochs)


def _ceilings() -> dict[str, float]:
    """Highest rate of matrix products on this device by precision, the better of XLA and PyTorch."""
    import jax.numpy as jnp

    from bridge.product import product_flops_per_second as in_torch
    from jaxmia.machine.ceiling import product_flops_per_second
    from jaxmia.training.speed import PeerError

    logger.info("ceiling: timing matrix products")
    ceilings = {name: product_flops_per_second(jnp.dtype(name)) for name in ("float32", "bfloat16")}
    try:
        theirs = in_torch(_torch_device())
    except PeerError as error:
        logger.warning(f"ceiling: PyTorch's matrix product {error}")
        return ceilings
    return {name: max(rate, theirs[name]) for name, rate in ceilings.items()}


def _torch_device() -> str:
    """PyTorch's name for the kind of device that JAX uses."""
    import jax

    return "cuda" if jax.default_backend() == "gpu" else "cpu"
