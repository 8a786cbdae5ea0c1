"""Throughput of this machine: images a second by way of training and width, against what people do today."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxmia.errors import InputError
from jaxmia.files import atomic_write, read_json
from jaxmia.machine.units import size
from jaxmia.provenance import origin

logger = logging.getLogger(__name__)


PEER = "peer"
OURS = "jaxmia"


class Timed(Protocol):
    """Something that trains `images` images a call and can say how long that took."""

    @property
    def images(self) -> int:
        """Images a call, once warmed up."""
        ...

    @property
    def bytes(self) -> int | None:
        """Memory of a call; None where it is not known."""
        ...

    def warm_up(self) -> float:
        """Makes the first calls; the seconds that are spent only once."""
        ...

    def seconds(self) -> float:
        """Time of one call."""
        ...


@dataclass(frozen=True)
class Contender:
    """A way to train models.

    Attributes:
        name: What it is.
        kind: `jaxmia` or `peer`.
        width: Models trained together.
        make: Builds it; may raise when memory does not suffice.
    """

    name: str
    kind: str
    width: int
    make: Callable[[], Timed]


@dataclass(frozen=True)
class Row:
    """What was measured of a contender.

    Attributes:
        name: What it is.
        kind: `jaxmia` or `peer`.
        width: Models trained together.
        images_per_second: Over all models: median of the repeats; None where memory did not suffice.
        low: Slowest repeat.
        high: Fastest repeat.
        models_per_hour: Of `samples` IN samples and `epochs` passes each.
        share_of_ceiling: Share of the device's own matrix-multiply rate.
        compile_seconds: Once.
        bytes: Memory that training takes, states and pool included; None where it is not known.
        peak_bytes: Largest use of device memory so far in the process; None where the device does not tell.
    """

    name: str
    kind: str
    width: int
    images_per_second: float | None
    low: float | None = None
    high: float | None = None
    models_per_hour: float | None = None
    share_of_ceiling: float | None = None
    compile_seconds: float | None = None
    bytes: int | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Scale:
    """What figures are computed with.

    Attributes:
        flops_per_image: Floating-point operations of training on one image.
        ceiling: Floating-point operations a second of a large matrix product on this device.
        model_images: Images that training one model takes.
    """

    flops_per_image: float
    ceiling: float
    model_images: int


def run(
    contenders: Sequence[Contender],
    scale: Scale,
    *,
    repeats: int = 5,
) -> list[Row]:
    """Times every contender `repeats` times, in turns, so that a drift of the machine's speed hits all alike.

    A contender for which memory does not suffice has no figure.
    """
    from jaxmia.training.measure import attempt

    ready: dict[int, Timed] = {}
    compiled: dict[int, float] = {}
    for number, contender in enumerate(contenders):
        logger.info(f"{contender.name}, {contender.width} wide: compiling")

        def prepare(number: int = number, contender: Contender = contender) -> float:
            rig = contender.make()
            compiled[number] = rig.warm_up()
            ready[number] = rig
            return 0.0

        if attempt(prepare) is None:
            logger.info(f"{contender.name}, {contender.width} wide: too little memory")
    rates: dict[int, list[float]] = {number: [] for number in ready}
    for repeat in range(repeats):
        logger.info(f"repeat {repeat + 1} of {repeats}")
        for number, rig in ready.items():
            rates[number].append(rig.images / rig.seconds())
    return [
        _row(contender, rates[number], compiled[number], ready[number].bytes, scale)
        if number in ready
        else Row(contender.name, contender.kind, contender.width, None)
        for number, contender in enumerate(contenders)
    ]


def describe(rows: Sequence[Row], scale: Scale, subject: dict[str, Any]) -> dict[str, Any]:
    """Everything about a measurement, as plain JSON."""
    return {"subject": subject, "origin": origin(), "scale": asdict(scale), "rows": [asdict(row) for row in rows]}


def load(path: Path) -> dict[str, Any]:
    """Reads what `jaxmia bench` wrote or `jaxmia bench --json` printed.

    Raises:
        InputError: The file is missing or no such JSON.
    """
    content = read_json(path, "jaxmia bench --out DIR")
    if not isinstance(content, dict) or not {"subject", "origin", "rows"} <= set(content):
        raise InputError(f"{path}: is no JSON of `jaxmia bench`: lacks subject, origin or rows")
    return content


def page(result: dict[str, Any]) -> str:
    """A measurement as Markdown: how, a table, and what the best of jaxmia is to each peer."""
    subject, here = result["subject"], result["origin"]
    shadow, size = subject["shadow"], " x ".join(map(str, subject["shape"]))
    measured = [row for row in result["rows"] if row["images_per_second"]]
    ours = [row["images_per_second"] for row in measured if row["kind"] == OURS]
    peers = [row for row in measured if row["kind"] == PEER]
    width = f" of width {shadow['width']}" if shadow["width"] else ""
    lines = [
        f"# Training throughput: {shadow['architecture']}{width} on {here['device']}",
        "",
        f"Training on images of {size}, batch {shadow['batch_size']}, {subject['dtype']}: medians over all models, "
        "the ways of training in turns within one run, each peer in a process of its own.",
        f"jax {here['jax']}, torch {here['torch']}, jaxmia {here['commit']}; a large matrix product reaches "
        f"{result['scale']['ceiling'] / 1e9:,.0f} GFLOP/s.",
        "",
        "| how | models | images/s | range | share of ceiling | compiling | memory |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *map(_line, measured),
        "",
    ]
    if ours and peers:
        ratios = (f"{max(ours) / row['images_per_second']:.2f} over {row['name']}" for row in peers)
        lines += [f"The best of jaxmia: {', '.join(ratios)}.", ""]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    rates = f"{row['images_per_second']:,.0f} | {row['low']:,.0f} - {row['high']:,.0f}"
    compiling = f"{row['compile_seconds']:.1f} s | {memory(row['bytes'])}"
    return f"| {row['name']} | {row['width']} | {rates} | {row['share_of_ceiling']:.0%} | {compiling} |"


def memory(count: int | None) -> str:
    """Bytes in words; nothing where they are not known."""
    return "" if count is None else size(count)


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws images a second against width to a PNG; peers are horizontal lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    measured = [row for row in result["rows"] if row["images_per_second"]]
    for name in dict.fromkeys(row["name"] for row in measured if row["kind"] == OURS):
        points = [row for row in measured if row["name"] == name]
        axes.plot([row["width"] for row in points], [row["images_per_second"] for row in points], "o-", label=name)
    for style, row in zip(
        ("--", "-.", ":", (0, (1, 3))), (row for row in measured if row["kind"] == PEER), strict=False
    ):
        axes.axhline(row["images_per_second"], color="0.4", linestyle=style, label=f"{row['name']} ({row['width']})")
    axes.set(xscale="log", yscale="log", xlabel="models trained together", ylabel="training images a second")
    axes.set_title(f"{result['subject']['shadow']['architecture']} on {result['origin']['device']}", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150)


def _row(contender: Contender, rates: list[float], compile_seconds: float, memory: int | None, scale: Scale) -> Row:
    rate = float(np.median(rates))
    return Row(
        contender.name,
        contender.kind,
        contender.width,
        rate,
        min(rates),
        max(rates),
        3600 * rate / scale.model_images,
        rate * scale.flops_per_image / scale.ceiling,
        compile_seconds,
        memory,
        _peak_bytes(),
    )


def _peak_bytes() -> int | None:
    import jax

    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use")
