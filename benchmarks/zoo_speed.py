"""Compares the training speed of jaxmia and of PyTorch's fastest variant on this CPU, for each network of the tests.

    python -m benchmarks.zoo_speed --out benchmarks/results

jaxmia trains by its own plan, which is measured again. PyTorch trains one model after another in separate processes:
eagerly in float32 and bfloat16, in one process and in one per core, and by `torch.compile` in the fastest of these
variants, or in several (`--compiled`). Each is timed alone in steady state. The files are written after each network.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from pydantic import TypeAdapter

from jaxmia.config import EnsembleConfig, Recipe
from jaxmia.errors import InputError
from jaxmia.files import read_json, write_text
from jaxmia.machine.bench import PYTORCH, Constants, Contender, Row, run
from jaxmia.provenance import origin
from jaxmia.training.speed import SubprocessPeer

ZOO = ("lenet", "vgg", "resnet", "densenet", "mobilenet", "senet", "convnext", "vit", "mixer", "text", "table")
_WORDS = 30
_MODELS, _SAMPLES = 64, 10**9
"""Number of models and samples of a run that is long enough for the plan to measure everything."""


@dataclass(frozen=True)
class Peer:
    """A variant of training a network in PyTorch.

    Attributes:
        network: Name of the network.
        precision: Type of activations.
        processes: Number of processes at once, which share the cores.
        compiled: Whether `torch.compile` fuses the network.
        batch: Number of samples in a batch.
    """

    network: str
    precision: str
    processes: int
    compiled: bool
    batch: int

    def __str__(self) -> str:
        ways = ["torch.compile" if self.compiled else "eager", self.precision]
        return ", ".join([*ways, f"{self.processes} processes" if self.processes > 1 else "1 process"])

    def start(self) -> SubprocessPeer:
        """Starts the processes."""
        command = [sys.executable, "-m", "benchmarks.zoo_speed", "--peer", _PEER.dump_json(self).decode()]
        return SubprocessPeer(command, self.processes, dict(os.environ))


_PEER = TypeAdapter(Peer)


@dataclass(frozen=True)
class Result:
    """Training speeds of one network, in samples per second.

    Attributes:
        network: Name of the network.
        plan: jaxmia's plan.
        ours: Speed of jaxmia by its plan.
        trials: Measurements of the plan: `width`, `conv`, `images_per_second`.
        peers: Variants of PyTorch: name, and `images_per_second` or the `failure`.
    """

    network: str
    plan: str
    ours: float
    trials: list[dict[str, Any]]
    peers: list[dict[str, Any]]

    @property
    def best(self) -> dict[str, Any]:
        """PyTorch's fastest variant."""
        return max(self.peers, key=lambda row: row["images_per_second"] or 0.0)

    def fastest(self, *, sequential: bool) -> float | None:
        """Speed of the plan's fastest trial at its first width, sequential or by `vmap`; None if there was none."""
        first = self.trials[0]["width"]
        rates = [
            trial["images_per_second"] or 0.0
            for trial in self.trials
            if trial["width"] == first and (trial["conv"] == "sequential") == sequential
        ]
        return max(rates, default=None)


def main(
    out: Path,
    networks: tuple[str, ...] = ZOO,
    batch: int = 64,
    repeats: int = 3,
    seconds: float = 0.3,
    compiled: int = 1,
) -> None:
    """Measures the networks one after another, and writes `zoo_cpu.md` and `zoo_cpu.json` after each.

    Args:
        out: Directory of the result.
        networks: Names of the networks.
        batch: Number of samples in a batch.
        repeats: Number of timed repeats of each variant.
        seconds: Minimum duration of a repeat, in seconds.
        compiled: Number of the fastest eager variants that are timed compiled too.
    """
    if unknown := set(networks) - set(ZOO):
        raise InputError(f"--networks: {', '.join(sorted(unknown))}: unknown, allowed are {', '.join(ZOO)}")
    _use_empty_cache()
    about = {"batch": batch, "repeats": repeats, "seconds": seconds, "compiled": compiled, "origin": origin()}
    results: list[Result] = []
    for name in networks:
        started = time.monotonic()
        results.append(measure(name, batch, repeats, seconds, compiled))
        found = [asdict(one) for one in results]
        write_text(out / "zoo_cpu.json", json.dumps({**about, "results": found}, indent=2) + "\n")
        write_text(out / "zoo_cpu.md", page(results, about))
        print(f"{_line(results[-1])} in {time.monotonic() - started:.0f} s", flush=True)


def _use_empty_cache() -> None:
    """Sets an empty cache folder, so that no earlier plan or program is used."""
    from jaxmia.training.devices import prepare_devices

    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="jaxmia-zoo-")
    prepare_devices()


def measure(name: str, batch: int, repeats: int, seconds: float, compiled: int) -> Result:
    """Measures one network: jaxmia by its plan, then every variant of PyTorch."""
    from jaxmia.training.devices import core_count
    from jaxmia.training.measure import StepTimer

    trainer = _trainer(name, batch)
    plan, trials = _plan(trainer)
    ours = Contender("jaxmia", "jaxmia", plan.width, "float32", lambda: StepTimer(trainer, plan))
    counts = sorted({1, core_count()})
    eager = [Peer(name, precision, count, False, batch) for precision in _PRECISIONS for count in counts]
    first, *rows = _timed([ours, *map(_contender, eager)], repeats, seconds)
    ranked = sorted(zip(eager, rows, strict=True), key=lambda pair: -(pair[1].images_per_second or 0.0))
    fused = [replace(peer, compiled=True) for peer, _ in ranked[:compiled]]
    rows += _timed(list(map(_contender, fused)), repeats, seconds)
    peers = [{"name": row.name, "images_per_second": row.images_per_second, "failure": row.failure} for row in rows]
    return Result(name, str(plan), first.images_per_second or 0.0, trials, peers)


_PRECISIONS = ("float32", "bfloat16")


def _contender(peer: Peer) -> Contender:
    return Contender(str(peer), PYTORCH, 1, peer.precision, peer.start)


def _timed(contenders: Sequence[Contender], repeats: int, seconds: float) -> list[Row]:
    constants = Constants(1.0, dict.fromkeys(_PRECISIONS, 1.0), 1)
    return run(contenders, constants, repeats=repeats, seconds=seconds)


def _recipe(batch: int, precision: str = "float32") -> Recipe:
    return Recipe(architecture="target", batch_size=batch, learning_rate=0.01, precision=precision)  # type: ignore[arg-type]


def _trainer(name: str, batch: int) -> Any:
    import numpy as np

    from bridge.graph import convert_module
    from jaxmia.data.preprocessing import Preprocessing
    from jaxmia.training.trainer import make_trainer

    factory, shape, tokens = _network(name)
    network = convert_module(factory(), shape, source=name, integers=tokens is not None)
    kind = np.int32 if tokens else np.uint8 if len(shape) == 3 else np.float32
    return make_trainer(_recipe(batch), shape, network.classes, Preprocessing(), dtype=kind, network=network)


def _plan(trainer: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Makes jaxmia's plan for many models; returns it with its measurements."""
    from jaxmia.files import cache_folder
    from jaxmia.training.autotune import make_plan

    before = set(cache_folder().glob("plan-*.json"))
    plan = make_plan(EnsembleConfig(), trainer, _MODELS, _SAMPLES)
    (kept,) = set(cache_folder().glob("plan-*.json")) - before
    return plan, read_json(kept, "this benchmark")["trials"]


def _network(name: str) -> tuple[Any, tuple[int, ...], int | None]:
    """Factory of a network, the shape of its samples in a pool, and its number of token ids, None for other samples."""
    from tests.bridge.graph.conftest import WORDS, ZOO

    factory, shape = ZOO[name]
    return factory, shape, _WORDS if shape is WORDS else None


def page(results: Sequence[Result], about: dict[str, Any]) -> str:
    """Formats the results as a Markdown table."""
    here = about["origin"]
    return "\n".join(
        [
            f"# Training speed of networks converted from PyTorch on {here['device']}",
            "",
            f"Training samples per second at batch size {about['batch']}: median of {about['repeats']} repeats of "
            f"{about['seconds']:g} s or more, each variant alone and in steady state before it is timed. jaxmia trains "
            "by its own plan, in float32. PyTorch trains one model after another: eagerly in float32 and bfloat16, in "
            f"one process and in one per core, and by `torch.compile` in the {_fastest(about['compiled'])} of these "
            "variants; the ratio is to its fastest variant. The plan's trials are the short measurements at one width "
            "by which it selects: the fastest with `vmap`, and one model after another in one program.",
            f"jax {here['jax']}, torch {here['torch']}, jaxmia {here['commit']}.",
            "",
            "| network | jaxmia | its plan | trial: vmap | trial: sequential | PyTorch | fastest variant | ratio |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *map(_line, results),
            "",
        ]
    )


def _fastest(count: int) -> str:
    return "fastest" if count == 1 else f"{count} fastest"


def _line(one: Result) -> str:
    best = one.best
    theirs = best["images_per_second"]
    trials = [_rate(one.fastest(sequential=sequential)) for sequential in (False, True)]
    cells = [one.network, _rate(one.ours), one.plan, *trials, _rate(theirs), best["name"]]
    return f"| {' | '.join(cells)} | {f'{one.ours / theirs:.2f}' if theirs else ''} |"


def _rate(value: float | None) -> str:
    return f"{value:,.0f}" if value else "not tried"


def serve_peer(description: str) -> None:
    """Trains as the described `Peer` in this process, to be timed by another process."""
    from bridge.peers import OneByOne, share_cores
    from jaxmia.training.speed import serve

    peer = _PEER.validate_json(description)
    share_cores(peer.processes)
    factory, shape, tokens = _network(peer.network)
    in_torch = (shape[2], *shape[:2]) if len(shape) == 3 else shape
    recipe = _recipe(peer.batch, peer.precision)
    serve(OneByOne(factory(), in_torch, 5, recipe, compiled=peer.compiled, tokens=tokens))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        serve_peer(sys.argv[2])
    else:
        tyro.cli(main)
