"""The command that measures throughput."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from jaxmia.errors import UsageError

if TYPE_CHECKING:
    from jaxmia.config import Config
    from jaxmia.machine.bench import Contender, Scale
    from jaxmia.training.trainer import Trainer

_PEERS_TOGETHER = 8

Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclass
class Bench:
    """Images a second of training on this machine, by way of training together and width; needs no data.

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
    """Models together; by default 1, 2, 4, ... as far as is sensible here."""
    repeats: int = 5
    """Timed repeats of everything, in turns."""
    peers: Switch = False
    """Also time plain vmap, PyTorch one model after the other, and torch.func's vmap."""
    json: Switch = False
    """Print JSON instead of a table."""
    compare: tuple[Path, ...] = ()
    """Set JSON files of several machines side by side instead of measuring."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Measures."""
        from jaxmia.cli.display import bench_table, comparison_table, output

        if self.compare:
            from jaxmia.machine.bench import load

            output(comparison_table([load(path) for path in self.compare]))
            return
        if self.repeats < 1 or min((*self.widths, *self.shape, self.classes - 1)) < 1:
            raise UsageError("--repeats, --widths and --shape are 1 or more, --classes 2 or more")
        from jaxmia.cli.overrides import configure
        from jaxmia.data.preprocessing import Preprocessing
        from jaxmia.files import write_text
        from jaxmia.machine.bench import describe, page, plot, run
        from jaxmia.training.devices import prepare_devices
        from jaxmia.training.trainer import make_trainer

        config = configure(self.config, overrides)
        prepare_devices()
        trainer = make_trainer(config.shadow, self.shape, self.classes, Preprocessing())
        scale = _scale(trainer, config)
        rows = run(self._contenders(trainer, config), scale, repeats=self.repeats)
        subject = {
            "shape": self.shape,
            "classes": self.classes,
            "shadow": config.shadow.model_dump(mode="json"),
            "dtype": str(trainer.compute.dtype),
        }
        result = describe(rows, scale, subject)
        if self.out:
            write_text(self.out / "bench.json", json.dumps(result, indent=2) + "\n")
            write_text(self.out / "bench.md", page(result))
            plot(result, self.out / "bench.png")
        output(json.dumps(result, indent=2) if self.json else bench_table(result))

    def _contenders(self, trainer: "Trainer", config: "Config") -> list["Contender"]:
        import jax

        from jaxmia.machine.bench import OURS, Contender
        from jaxmia.training.autotune import conv_choices
        from jaxmia.training.devices import make_devices
        from jaxmia.training.measure import StepTimer
        from jaxmia.training.plan import plan_of

        devices = make_devices(config.ensemble)
        platform = devices[0].platform
        default = (1, 2, 4, 8, 16, 32, 64) if platform != "cpu" else tuple(len(devices) * n for n in (1, 2, 4, 8))
        # What plain `vmap` does is timed as a peer; wider than a few it takes minutes.
        convs = tuple(conv for conv in conv_choices(trainer, platform) if conv != "grouped")
        contenders = []
        for conv in convs if config.ensemble.conv == "auto" else (config.ensemble.conv,):
            for width in self.widths or default:
                used = devices[: min(width, len(devices))]
                plan = plan_of(width, conv, used)
                name = conv if trainer.network.convolutional else "vmap"
                make = functools.partial(StepTimer, trainer, plan)
                contenders.append(Contender(name, OURS, plan.width, make))
        if self.peers:
            contenders += _peers(trainer, config, "cuda" if jax.default_backend() == "gpu" else "cpu")
        return contenders


def _peers(trainer: "Trainer", config: "Config", device: str) -> list["Contender"]:
    from bridge.peers import SubprocessPeer, Way
    from bridge.trainer import TorchRecipe
    from jaxmia.machine.bench import PEER, Contender

    shadow = config.shadow
    recipe = TorchRecipe(
        batch_size=shadow.batch_size,
        optimizer=shadow.optimizer,
        crop=shadow.augment.crop,
        flip=shadow.augment.flip,
        device=device,
        precision="bfloat16" if str(trainer.compute.dtype) == "bfloat16" else "float32",
    )
    compiled: list[tuple[str, Way, int, TorchRecipe]] = (
        [("PyTorch torch.compile", "one by one", 1, replace(recipe, compile=True))] if device == "cuda" else []
    )
    ways: list[tuple[str, Way, int, TorchRecipe]] = [
        ("plain vmap (JAX)", "vmap", _PEERS_TOGETHER, recipe),
        ("PyTorch eager, channels-last", "one by one", 1, recipe),
        *compiled,
        ("torch.func vmap", "torch.func", _PEERS_TOGETHER, recipe),
    ]
    return [
        Contender(name, PEER, width, functools.partial(SubprocessPeer, way, trainer.network, chosen, width))
        for name, way, width, chosen in ways
    ]


def _scale(trainer: "Trainer", config: "Config") -> "Scale":
    from jaxmia.machine.bench import Scale
    from jaxmia.machine.ceiling import matmul_flops_per_second, training_flops_per_image

    return Scale(
        training_flops_per_image(trainer),
        matmul_flops_per_second(trainer.compute.dtype),
        14_000 * config.shadow.epochs,
    )
