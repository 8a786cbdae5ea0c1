"""Measures training throughput, compared with PyTorch, and how the device's time is spent."""

import gzip
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.program.account import Kernel, kernels, least_seconds
from benchmarks.study.making import MEAN, STD, Study
from jaxmia.cli.commands.bench import Bench
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.files import load_npz, write_text
from jaxmia.provenance import origin
from jaxmia.training.autotune import make_plan
from jaxmia.training.measure import StepTimer
from jaxmia.training.trainer import make_trainer

CALLS = 3
UNKNOWN = "not in the program's text"
_OF_LIBRARIES = re.compile(r"xmma|cutlass|cudnn|convolve|[fdw](prop|grad)|nvjet|gemm", re.IGNORECASE)
"""Kernels of cuDNN and cuBLAS, for which a trace may not name the operation."""


def bench(study: Study) -> None:
    """Times training at the preset's widths, and PyTorch in the same run; writes `bench/bench.json`."""
    out = study.out / "bench"
    if not study.preset.bench_widths or (out / "bench.json").exists():
        return
    preset, recipe = study.preset, study.preset.config().shadow
    side, channels, classes = _subject(study)
    Bench(out=out, shape=(side, side, channels), classes=classes, widths=preset.bench_widths, repeats=3, peers=True)(
        [
            *("--shadow.architecture", preset.architecture),
            *("--shadow.width", str(preset.width or "null")),
            *("--shadow.known", str(recipe.known)),
            *("--shadow.batch_size", str(preset.batch_size)),
            *("--shadow.epochs", str(recipe.epochs)),
            *("--shadow.augment.crop", str(preset.crop)),
            *("--shadow.augment.flip", "true"),
        ]
    )


def profile(study: Study) -> None:
    """Traces training by the shadows' plan; writes `profile.json`, with time spent and its bound by kind of work."""
    path = study.out / "profile.json"
    if not study.preset.bench_widths or path.exists():
        return
    config = study.preset.config()
    side, channels, classes = _subject(study)
    trainer = make_trainer(config.shadow, (side, side, channels), classes, Preprocessing(None, MEAN, STD))
    plan = make_plan(config.ensemble, trainer, config.shadow.count, study.preset.public + study.preset.private)
    timer = StepTimer(trainer, plan)
    timer.warm_up()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            seconds = sum(timer.seconds() for _ in range(CALLS))
        together = time_by_operation(read_trace(Path(folder)))
    spent = Counter({name: microseconds / len(plan.devices) for name, microseconds in together.items()})
    program = kernels(timer.program.as_text() or "")
    result = {
        "plan": str(plan),
        "images": CALLS * timer.images,
        "seconds": seconds,
        "busy_seconds": sum(spent.values()) / 1e6,
        "kinds": time_by_kind(spent, program, CALLS),
        "longest": {name: microseconds / 1e6 for name, microseconds in spent.most_common(25)},
        "origin": origin(),
    }
    write_text(path, json.dumps(result, indent=2) + "\n")


def read_trace(folder: Path) -> list[dict[str, Any]]:
    """Reads the events of a trace written by `jax.profiler`."""
    path = next(folder.rglob("*.trace.json.gz"))
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def time_by_operation(events: Sequence[dict[str, Any]]) -> Counter[str]:
    """Sums the microseconds of each operation of a program over all devices.

    On a GPU the operations are the kernels of its streams, named by the operation that they belong to or, if the trace
    does not record it, by their own names; elsewhere they are the operations of the trace. Loops are left out, since
    their time is that of their contents.
    """
    streams = {
        (event["pid"], event["tid"])
        for event in events
        if event.get("name") == "thread_name" and "Stream" in event["args"]["name"]
    }
    spent = Counter[str]()
    for event in events:
        if "dur" not in event or (streams and (event["pid"], event["tid"]) not in streams):
            continue
        name = event.get("args", {}).get("hlo_op") or (event["name"] if streams else "")
        if name and not re.match(r"(while|call|conditional)\b", name):
            spent[name] += event["dur"]
    return spent


def time_by_kind(spent: Counter[str], program: Iterable[Kernel], calls: int) -> dict[str, dict[str, float]]:
    """Seconds by kind of work: `spent`, and `least`, the lower bound for the program's kernels of that kind on an H100.

    Args:
        spent: Microseconds by operation.
        program: Kernels of the program.
        calls: Number of times that the program ran.
    """
    program = list(program)
    kind_of = {_plain(kernel.name): kernel.kind for kernel in program}
    kinds: dict[str, dict[str, float]] = {}
    for kernel in program:
        entry = kinds.setdefault(kernel.kind, {"spent": 0.0, "least": 0.0})
        entry["least"] += calls * kernel.times * least_seconds(kernel)
    for name, microseconds in spent.items():
        other = "convolutions and products of libraries" if _OF_LIBRARIES.search(name) else UNKNOWN
        entry = kinds.setdefault(kind_of.get(_plain(name), other), {"spent": 0.0, "least": 0.0})
        entry["spent"] += microseconds / 1e6
    return dict(sorted(kinds.items(), key=lambda item: -item[1]["spent"]))


def _plain(name: str) -> str:
    """Name of the operation of an XLA kernel, in which characters that C does not allow are replaced."""
    return re.sub(r"\W", "_", name)


def _subject(study: Study) -> tuple[int, int, int]:
    """Side and channels of the images that the networks take, and the number of classes."""
    arrays = load_npz(study.images, required=("labels",))
    channels = arrays["images"].shape[-1] if "images" in arrays else 3
    return study.preset.image_size or study.preset.side, channels, int(arrays["labels"].max()) + 1
