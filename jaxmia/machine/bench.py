"""Measures how many images/s this machine trains, by method and number of models at once, compared with PyTorch."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxmia.errors import InputError
from jaxmia.files import atomic_write, read_json
from jaxmia.machine.units import duration, size
from jaxmia.provenance import origin

logger = logging.getLogger(__name__)


OURS, PYTORCH, OTHER = "jaxmia", "PyTorch", "other"
"""Kinds of contenders: jaxmia itself, PyTorch, and other tools."""


class MeasuredTraining(Protocol):
    """Training whose speed can be measured."""

    @property
    def bytes(self) -> int | None:
        """Memory that training takes, in bytes; None if unknown."""
        ...

    def warm_up(self) -> float:
        """Runs the first steps; returns the one-time cost in seconds."""
        ...

    def images_per_second(self, seconds: float) -> float:
        """Speed in steady state, over as many steps as fill the seconds."""
        ...


@dataclass(frozen=True)
class Contender:
    """A method of training models whose speed is measured.

    Attributes:
        name: Name shown in tables.
        kind: `jaxmia`, `PyTorch` or `other`.
        width: Number of models trained at once.
        precision: Type of activations, float32 or bfloat16.
        make: Builds the training; may raise if there is not enough memory.
    """

    name: str
    kind: str
    width: int
    precision: str
    make: Callable[[], MeasuredTraining]


@dataclass(frozen=True)
class Row:
    """Measurements of one contender.

    Attributes:
        name: Name shown in tables.
        kind: `jaxmia`, `PyTorch` or `other`.
        width: Number of models trained at once.
        precision: Type of activations.
        failure: Reason why there is no figure; None if there is one.
        images_per_second: Images per second over all models, median of the repeats.
        low: Slowest repeat.
        high: Fastest repeat.
        models_per_hour: Models per hour, each with `samples` IN samples and `epochs` passes.
        share_of_ceiling: Fraction of the fastest matrix product measured in that precision; above 1 where convolutions
            are computed with fewer operations than their definition has.
        compile_seconds: One-time compilation time in seconds.
        bytes: Memory of training, with states and pool; None if unknown.
        peak_bytes: Peak device memory of the process so far; None if the device does not report it.
    """

    name: str
    kind: str
    width: int
    precision: str
    failure: str | None = None
    images_per_second: float | None = None
    low: float | None = None
    high: float | None = None
    models_per_hour: float | None = None
    share_of_ceiling: float | None = None
    compile_seconds: float | None = None
    bytes: int | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Constants:
    """Constants from which figures are computed.

    Attributes:
        flops_per_image: Floating-point operations of training on one image, by the definition of its layers.
        ceilings: Floating-point operations per second of the fastest matrix product on this device, by precision.
        model_images: Number of images to train one model.
    """

    flops_per_image: float
    ceilings: dict[str, float]
    model_images: int


def name_of(lowering: str, convolutional: bool) -> str:
    """Name of one of jaxmia's methods: its lowering, or `vmap` for `unrolled` if the network has no convolutions."""
    return lowering if convolutional or lowering != "unrolled" else "vmap"


def run(contenders: Sequence[Contender], constants: Constants, *, repeats: int = 5, seconds: float = 1.0) -> list[Row]:
    """Times every contender `repeats` times, in turns, so that a drift of the machine's speed affects all alike.

    Only one contender works at a time, and each reaches its steady state before it is timed. A contender that crashes
    or runs out of memory has no figure.

    Args:
        contenders: Methods of training.
        constants: Numbers from which figures are computed.
        repeats: Number of timed repeats of each contender.
        seconds: Minimum duration of a repeat.
    """
    trials = [_Trial(contender) for contender in contenders]
    for trial in trials:
        logger.info(f"{trial}: compiling")
        trial.attempt(trial.prepare)
    for repeat in range(repeats):
        logger.info(f"repeat {repeat + 1} of {repeats}")
        for trial in trials:
            trial.attempt(lambda trial=trial: trial.measure(seconds))
    return [trial.row(constants) for trial in trials]


class _Trial:
    """Measurement of one contender in progress."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._timed: MeasuredTraining | None = None
        self._compile_seconds = 0.0
        self._rates: list[float] = []
        self._failure: str | None = None

    def __str__(self) -> str:
        count = self._contender.width
        return f"{self._contender.name}, {count} model{'s' if count > 1 else ''}"

    def prepare(self) -> None:
        self._timed = self._contender.make()
        self._compile_seconds = self._timed.warm_up()

    def measure(self, seconds: float) -> None:
        if self._timed:
            self._rates.append(self._timed.images_per_second(seconds))

    def attempt(self, action: Callable[[], None]) -> None:
        """Runs one of the two steps unless an earlier one has failed."""
        from jaxmia.training.measure import out_of_memory
        from jaxmia.training.speed import PeerError

        if self._failure:
            return
        try:
            action()
        except Exception as error:
            if not isinstance(error, PeerError) and not out_of_memory(error):
                raise
            self._failure = str(error) if isinstance(error, PeerError) else "out of memory"
            self._timed = None
            logger.warning(f"{self}: {self._failure}")

    def row(self, constants: Constants) -> Row:
        contender = self._contender
        about = contender.name, contender.kind, contender.width, contender.precision
        if self._failure or not self._timed:
            return Row(*about, self._failure)
        rate = float(np.median(self._rates))
        return Row(
            *about,
            None,
            rate,
            min(self._rates),
            max(self._rates),
            3600 * rate / constants.model_images,
            rate * constants.flops_per_image / constants.ceilings[contender.precision],
            self._compile_seconds,
            self._timed.bytes,
            _peak_bytes(),
        )


def describe(rows: Sequence[Row], constants: Constants, subject: dict[str, Any]) -> dict[str, Any]:
    """Describes a measurement as plain JSON."""
    from jaxmia.models.native.build import description

    made = origin()
    if made["platform"] == "cpu":
        made["kernels"] = description()
    return {"subject": subject, "origin": made, "scale": asdict(constants), "rows": [asdict(row) for row in rows]}


def load(path: Path) -> dict[str, Any]:
    """Reads the result of `jaxmia bench` or `jaxmia bench --json`.

    Raises:
        InputError: The file is missing or is not such a result.
    """
    content = read_json(path, "jaxmia bench --out DIR")
    if not isinstance(content, dict) or not {"subject", "origin", "rows"} <= set(content):
        raise InputError(f"{path}: is not a result of `jaxmia bench`: lacks subject, origin or rows")
    return content


def page(result: dict[str, Any]) -> str:
    """Formats a measurement as Markdown: method, table, and the ratio of jaxmia's fastest to PyTorch's fastest."""
    subject, here = result["subject"], result["origin"]
    shadow, size = subject["shadow"], " x ".join(map(str, subject["shape"]))
    width = f" of width {shadow['width']}" if shadow["width"] else ""
    kernels = f", kernels {here['kernels']}" if "kernels" in here else ""
    return "\n".join(
        [
            f"# Training throughput: {shadow['architecture']}{width} on {here['device']}",
            "",
            f"Training on images of {size}, batch {shadow['batch_size']}: images a second over all models, median and "
            f"range of {subject['repeats']} repeats of {subject['seconds']:g} s or more, in turns, one way at a time, "
            "each in steady state before its clock starts; each peer in processes of its own.",
            f"jax {here['jax']}, torch {here['torch']}, jaxmia {here['commit']}{kernels}. The fastest matrix products "
            f"reach {products(result['scale'])}; shares are of these, with the operations of convolutions counted by "
            "their definition, of which minimal filtering does about a quarter.",
            "",
            "| how | models | images/s | range | share of ceiling | compiling | memory |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *map(_line, result["rows"]),
            "",
            *((f"{sentence}.", "") if (sentence := verdict(result["rows"])) else ()),
            *_step_lines(result.get("step")),
        ]
    )


def _step_lines(step: dict[str, Any] | None) -> list[str]:
    if not step:
        return []
    return [
        "## Where a step's time goes",
        "",
        f"{step['name']}, {step['width']} models: {duration(step['step_seconds'])} a step in steady state;",
        "shares of the time of all devices together.",
        "",
        "| work | share |",
        "| --- | --- |",
        *(f"| {kind} | {share:.0%} |" for kind, share in step["shares"].items()),
        "",
    ]


def products(scale: dict[str, Any]) -> str:
    """Formats the ceilings."""
    return ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {precision}" for precision, rate in scale["ceilings"].items())


def verdict(rows: Sequence[dict[str, Any]]) -> str | None:
    """Sentence with the ratio of jaxmia's fastest to PyTorch's fastest; None if one of them was not measured."""
    ours, theirs = fastest(rows, OURS), fastest(rows, PYTORCH)
    if not ours or not theirs:
        return None
    speed, peer = ours["images_per_second"], theirs["images_per_second"]
    return (
        f"jaxmia at its fastest ({ours['name']}, {ours['width']} models, {speed:,.0f} images/s) reaches "
        f"{speed / peer:.2f} times the speed of PyTorch at its fastest ({theirs['name']}, {peer:,.0f} images/s)"
    )


def fastest(rows: Sequence[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    """The row of the fastest contender of a kind; None if none was measured."""
    measured = [row for row in rows if row["kind"] == kind and row["images_per_second"]]
    return max(measured, key=lambda row: row["images_per_second"], default=None)


def _line(row: dict[str, Any]) -> str:
    if not row["images_per_second"]:
        return f"| {row['name']} | {row['width']} | {row['failure']} | | | | |"
    rates = f"{row['images_per_second']:,.0f} | {row['low']:,.0f} - {row['high']:,.0f}"
    compiling = f"{row['compile_seconds']:.1f} s | {memory(row['bytes'])}"
    return f"| {row['name']} | {row['width']} | {rates} | {row['share_of_ceiling']:.0%} | {compiling} |"


def memory(count: int | None) -> str:
    """Formats a number of bytes; empty if it is unknown."""
    return "" if count is None else size(count)


def plot(result: dict[str, Any], path: Path) -> None:
    """Plots images/s by width to a PNG, with the fastest peer of each kind as a horizontal line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    measured = [row for row in result["rows"] if row["images_per_second"]]
    for name in dict.fromkeys(row["name"] for row in measured if row["kind"] == OURS):
        points = [row for row in measured if row["name"] == name]
        axes.plot([row["width"] for row in points], [row["images_per_second"] for row in points], "o-", label=name)
    best = (fastest(measured, PYTORCH), fastest(measured, OTHER))
    for style, row in zip(("--", ":"), best, strict=True):
        if row:
            axes.axhline(row["images_per_second"], color="0.4", linestyle=style, label=row["name"])
    axes.set(xscale="log", xlabel="models trained at once", ylabel="training images/s")
    widths = sorted({row["width"] for row in measured})
    axes.set_xticks(widths, list(map(str, widths)))
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(f"{result['subject']['shadow']['architecture']} on {result['origin']['device']}", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150)


def _peak_bytes() -> int | None:
    import jax

    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use")
