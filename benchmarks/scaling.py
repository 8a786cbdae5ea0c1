"""Times the whole training of 1, 2, 4, ... models of the demo's network, by jaxmia and by PyTorch.

    python benchmarks/scaling.py --out benchmarks/results

Each time is that of fresh processes from their first step to their last, without imports but with compilation and the
measurement of the plan: `first` with empty caches, `again` with those that the first process filled. PyTorch trains as
many models of the same network and recipe in one process per core with a thread each, its fastest way with this
network, or in one process with all threads where there is one model. It takes about five minutes on two CPU cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxmia.config import Recipe
from jaxmia.files import atomic_write, write_text
from jaxmia.training.devices import core_count

_SAMPLES = 1200
_RECIPE = Recipe(architecture="cnn", epochs=25, batch_size=64)
_WAYS = ("first", "again", "pytorch")


def together(count: int) -> Callable[[], object]:
    """Returns the training of `count` models by jaxmia, each on half of the samples."""
    from jaxmia.api import train_shadows
    from jaxmia.data.pool import Pool
    from jaxmia.data.preprocessing import Preprocessing
    from jaxmia.training.devices import prepare_devices

    images, labels = made_up()
    prepare_devices()
    names = np.arange(len(images)).astype(np.str_)
    pool = Pool(images, labels, names, np.full(len(images), -1, np.int8))
    recipe, preprocessing, classes = _RECIPE.model_copy(update={"count": count}), Preprocessing(), int(labels.max()) + 1
    return lambda: train_shadows(pool, recipe, preprocessing, classes, symmetries=("identity",))


def in_turn(count: int) -> Callable[[], object]:
    """Returns the training of `count` models one after the other by PyTorch, in its fastest precision."""
    from bridge.trainer import train_target
    from jaxmia.models import Network

    images, labels = made_up()
    network, recipe = Network("cnn", (8, 8, 1), 10), _RECIPE.model_copy(update={"precision": "float32"})

    def train() -> None:
        for seed in range(count):
            members = np.random.default_rng(seed).permutation(len(images))[: len(images) // 2]
            train_target(images[members], labels[members], network, recipe, seed=seed)

    return train


def made_up() -> tuple[np.ndarray, np.ndarray]:
    """Images of noise in the demo's size, since their content does not change the time."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (_SAMPLES, 8, 8, 1), dtype=np.uint8), random.integers(0, 10, _SAMPLES, np.int32)


def seconds(way: str, count: int, cache: Path) -> float:
    """Time of the training in separate processes, as reported by the slowest."""
    processes = min(core_count(), count) if way == "pytorch" else 1
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    if way == "pytorch":
        environment["OMP_NUM_THREADS"] = str(core_count() // processes)
    shares = [str(len(share)) for share in np.array_split(np.arange(count), processes)]
    command = [sys.executable, __file__, "--way", way, "--count"]
    started = [
        subprocess.Popen([*command, share], env=environment, stdout=subprocess.PIPE, text=True) for share in shares
    ]
    told = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{way} with {count} models has failed")
    return max(float(lines.splitlines()[-1]) for lines in told)


def measure(counts: list[int]) -> dict[str, list[float]]:
    """Measures the seconds of each method for each number of models."""
    times: dict[str, list[float]] = {way: [] for way in _WAYS}
    for count in counts:
        with tempfile.TemporaryDirectory() as cache:
            for way in _WAYS:
                times[way].append(seconds(way, count, Path(cache)))
        print(count, "models:", *(f"{way} {times[way][-1]:.1f} s" for way in _WAYS), flush=True)
    return times


def table(counts: list[int], times: dict[str, list[float]], origin: dict) -> str:
    """Formats the times as a Markdown page."""
    rows = [
        f"| {count} | {first:.1f} | {again:.1f} | {pytorch:.1f} | {pytorch / first:.2f} | {pytorch / again:.2f} |"
        for count, first, again, pytorch in zip(counts, *(times[way] for way in _WAYS), strict=True)
    ]
    return "\n".join(
        [
            "# Wall time against the number of models",
            "",
            f"Whole trainings of the demo's network (8 x 8 x 1, {_RECIPE.epochs} epochs of {_SAMPLES // 2} samples, "
            f"batch {_RECIPE.batch_size}), in seconds; jaxmia also queries all {_SAMPLES} samples.",
            "`first` includes compiling and measuring the plan with empty caches; `again` has both in the cache. "
            "PyTorch trains in one process per core, a thread each, or one model with all threads; imports are not "
            "timed.",
            f"{origin['device']}; jax {origin['jax']}, torch {origin['torch']}, jaxmia {origin['commit']}. "
            "Made by `python benchmarks/scaling.py`.",
            "",
            "| models | first | again | PyTorch | ratio, first | ratio, again |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def draw(counts: list[int], times: dict[str, list[float]], path: Path) -> None:
    """Plots the times."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for way, label in zip(
        _WAYS, ("jaxmia, first run", "jaxmia, later runs", "PyTorch, a process per core"), strict=True
    ):
        axes.plot(counts, times[way], "o-", label=label)
    axes.set(xscale="log", yscale="log", xlabel="models", ylabel="seconds")
    axes.set_xticks(counts, [str(count) for count in counts], minor=False)
    axes.minorticks_off()
    axes.legend()
    axes.grid(alpha=0.3)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150)


def main() -> None:
    """Parses the command line, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--most", type=int, default=64, help="models of the largest training")
    parser.add_argument("--way", choices=_WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        train = (in_turn if options.way == "pytorch" else together)(options.count)
        started = time.perf_counter()
        train()
        print(time.perf_counter() - started)
        return
    from jaxmia.provenance import origin

    counts = [2**power for power in range(options.most.bit_length()) if 2**power <= options.most]
    times, here = measure(counts), origin()
    write_text(
        options.out / "scaling_cpu.json", json.dumps({"models": counts, **times, "origin": here}, indent=2) + "\n"
    )
    write_text(options.out / "scaling_cpu.md", table(counts, times, here))
    draw(counts, times, options.out / "scaling_cpu.png")


if __name__ == "__main__":
    main()
