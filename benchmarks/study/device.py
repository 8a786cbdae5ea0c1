"""What the device does while it trains: throughput beside its peers, and where its time goes."""

import gzip
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from benchmarks.study.making import MEAN, STD, Study
from jaxmia.commands.bench import Bench
from jaxmia.files import load_npz, write_text
from jaxmia.provenance import origin
from jaxmia.training.making import make_trainer
from jaxmia.training.measure import Rig
from jaxmia.training.plan import make_plan

CALLS = 3
CLASSES = {
    "convolutions and matrix products": r"conv(?!ert)|gemm|dot|cudnn|cublas",
    "reductions (batch statistics, gradients of norms)": r"reduce|norm",
    "copies, transposes, gathers": r"copy|transpose|gather|scatter|slice|concatenate|pad|sort",
}
"""Operations by what their names hold, the first that fits; all others are elementwise."""
ELEMENTWISE = "elementwise, fused"
_CONTAINERS = ("while", "call", "conditional")
"""Their time is that of the operations within."""


def bench(study: Study) -> None:
    """Times training at the preset's widths, and PyTorch in the same run: `bench/bench.json`."""
    out = study.out / "bench"
    if not study.preset.bench_widths or (out / "bench.json").exists():
        return
    preset, recipe = study.preset, study.preset.config().shadow
    side, channels, classes = _subject(study)
    Bench(out=out, shape=(side, side, channels), classes=classes, widths=preset.bench_widths, repeats=3, peers=True)(
        [
            *("--shadow.architecture", preset.architecture),
            *("--shadow.batch_size", str(preset.batch_size)),
            *("--shadow.epochs", str(recipe.epochs)),
            *("--shadow.augment.crop", str(preset.crop)),
            *("--shadow.augment.flip", "true"),
        ]
    )


def profile(study: Study) -> None:
    """Traces training as it was planned for the shadows: `profile.json` with each class of operations' share."""
    path = study.out / "profile.json"
    if not study.preset.bench_widths or path.exists():
        return
    config = study.preset.config()
    side, channels, classes = _subject(study)
    trainer = make_trainer(config.shadow, (side, side, channels), classes, mean=MEAN, std=STD)
    plan = make_plan(
        config.ensemble, trainer, config.shadow.count, study.preset.public + study.preset.private, study.say
    )
    rig = Rig(plan.applied(trainer), plan.width, plan.sequential, plan.devices)
    rig.warm_up()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            seconds = sum(rig.seconds() for _ in range(CALLS))
        spent = time_by_operation(read_trace(Path(folder)))
    by_class = Counter[str]()
    for operation, microseconds in spent.items():
        by_class[class_of(operation)] += microseconds
    total = sum(spent.values())
    result = {
        "plan": str(plan),
        "images_per_second": CALLS * rig.images / seconds,
        "seconds": seconds,
        "shares": {name: microseconds / total for name, microseconds in by_class.most_common()},
        "longest": {name: microseconds / total for name, microseconds in spent.most_common(25)},
        "origin": origin(),
    }
    write_text(path, json.dumps(result, indent=2) + "\n")


def read_trace(folder: Path) -> list[dict[str, Any]]:
    """The events of a trace that `jax.profiler` wrote."""
    path = next(folder.rglob("*.trace.json.gz"))
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def time_by_operation(events: Iterable[dict[str, Any]]) -> Counter[str]:
    """Microseconds by operation (its number left out) of those events that are operations of a program."""
    spent = Counter[str]()
    for event in events:
        name = re.sub(r"[.\d]+$", "", event.get("args", {}).get("hlo_op", ""))
        if name and name not in _CONTAINERS and "dur" in event:
            spent[name] += event["dur"]
    return spent


def class_of(operation: str) -> str:
    """What kind of work an operation is, by its name."""
    return next((name for name, pattern in CLASSES.items() if re.search(pattern, operation)), ELEMENTWISE)


def _subject(study: Study) -> tuple[int, int, int]:
    """Side and channels of the images that networks see, and the number of classes."""
    arrays = load_npz(study.images, required=("labels",))
    channels = arrays["images"].shape[-1] if "images" in arrays else 3
    return study.preset.image_size or study.preset.side, channels, int(arrays["labels"].max()) + 1
