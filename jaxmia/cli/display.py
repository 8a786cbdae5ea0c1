"""Terminal output: progress bars and tables, or plain lines outside a terminal."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from jaxmia.errors import InputError, visible
from jaxmia.machine.units import duration
from jaxmia.runs.progress import ThroughputMeter

if TYPE_CHECKING:
    from jaxmia.evaluation.intervals import Estimate
    from jaxmia.evaluation.metrics import Figures
    from jaxmia.leaderboard.grading import Standing
    from jaxmia.runs.metrics import RunMetrics, SelectionSummary
    from jaxmia.runs.progress import Progress as ChunkProgress

_SECONDS_BETWEEN_LINES = 30.0
_LOGGERS = ("jaxmia", "bridge", "benchmarks")

logger = logging.getLogger(__name__)


class _LiteralConsole(Console):
    """Console that prints text literally, so that names and paths from files cannot style or steer the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Renders text without markup and with control characters escaped."""
        return super().render_str(visible(text), **{**options, "markup": False, "emoji": False})


console = _LiteralConsole(stderr=True, highlight=False)
_results = _LiteralConsole(highlight=False, width=None if sys.stdout.isatty() else 120)


def output(result: str | Table) -> None:
    """Prints a result to standard output.

    Raises:
        InputError: Standard output cannot be written, for example because the disk is full.
    """
    try:
        _results.print(result, soft_wrap=isinstance(result, str))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"standard output: cannot be written: {error.strerror}") from error


def announce(line: str) -> None:
    """Prints one line to standard error, which keeps standard output for results.

    A line that cannot be written is dropped.
    """
    with suppress(OSError):
        console.print(line, soft_wrap=True)


class _ConsoleHandler(logging.Handler):
    """Handler that prints log messages as plain lines above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        announce(self.format(record))


_handler = _ConsoleHandler()


def show_messages(level: int) -> None:
    """Shows jaxmia's log messages of this level and above; progress bars count as INFO."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        if _handler not in logger.handlers:
            logger.addHandler(_handler)
            logger.propagate = False  # a library may have given the root logger a handler of its own


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[["ChunkProgress"], None]]:
    """Shows a progress bar with models, epoch, loss, accuracy IN and OUT, images/s and time left."""
    if not logger.isEnabledFor(logging.INFO):
        yield lambda progress: None
        return
    if not console.is_terminal:
        yield _log_progress(title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[what]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task(title, total=None, what="compiling")
        meter = ThroughputMeter()

        def on_progress(progress: "ChunkProgress") -> None:
            bar.update(
                task,
                description=_doing(title, progress),
                completed=progress.done,
                total=progress.total,
                what=_figures(meter(progress)),
            )

        yield on_progress


def figures_table(figures: "Figures", title: str) -> Table:
    """Table of AUC and TPR at each FPR with 95 % intervals."""
    table = Table(title=title, title_justify="left")
    for column in ("metric", "value", "95 % interval"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    table.add_row("AUC", *_interval(figures.auc))
    for entry in figures.tpr:
        name = f"TPR at {100 * entry.fpr:g} % FPR"
        if entry.resampled is None:
            table.add_row(name, "-", f"not measurable with {figures.nonmembers} non-members")
        else:
            table.add_row(name, *_interval(entry.resampled))
    return table


def _interval(estimate: "Estimate") -> tuple[str, str]:
    return f"{estimate.value:.4f}", f"{estimate.low:.4f} - {estimate.high:.4f}"


def ranking_table(standings: Sequence["Standing"]) -> Table:
    """Table of the teams of a practice leaderboard, in the given order."""
    table = Table(title="final ranking: TPR at 5 % FPR", title_justify="left")
    for column in ("rank", "team", "final", "95 % interval", "public"):
        table.add_column(column, justify="left" if column == "team" else "right")
    for rank, standing in enumerate(standings, start=1):
        final = standing.final
        interval = f"{final.low:.4f} - {final.high:.4f}"
        table.add_row(str(rank), standing.team, f"{final.value:.4f}", interval, f"{standing.public.value:.4f}")
    return table


def selection_table(selection: "SelectionSummary", rows: int = 12) -> Table:
    """Table of the best candidates of a selection."""
    title = f"attacks on {selection.targets} pseudo-targets (shadow models): mean TPR at {100 * selection.fpr:g} % FPR"
    table = Table(title=title, title_justify="left")
    for column in ("attack", "TPR", "standard error", "AUC", ""):
        table.add_column(column, justify="left" if column in ("attack", "") else "right")
    usable = sorted((row for row in selection.results if row.tpr is not None), key=lambda row: -(row.tpr or 0))
    measured = selection.measured
    mark = "chosen" if measured == selection.chosen else "chosen, measured without alignment"
    for row in usable[:rows] + [row for row in usable[rows:] if row.name == measured]:
        figures = (f"{value:.4f}" for value in (row.tpr, row.std_error, row.auc))
        table.add_row(row.name, *figures, mark if row.name == measured else "")
    notes = [f"submitted: {selection.chosen}"] if selection.aligned else []
    if left_out := len(usable) - table.row_count:
        notes.append(f"{left_out} more attacks are not shown; metrics.json lists them")
    if notes:
        table.caption, table.caption_justify = "\n".join(notes), "left"
    return table


def match_table(result: dict[str, Any], rows: int = 12) -> Table:
    """Table of the best recipes in `match.json`, by the fields in which recipes differ."""
    target, trials = result["target"], result["trials"]
    title = (
        f"recipes by energy score for the target, {result['models']} models each; the target's accuracy is "
        f"{target['accuracy_in']:.3f} on members and {target['accuracy_out']:.3f} on non-members"
    )
    caption = "errors are standard errors; a recipe whose gap is below two of them is as good as the best"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for column in ("recipe", "energy score (nats)", "gap to the best", "accuracy IN", "accuracy OUT"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for trial in trials[:rows]:
        differing = {
            name: value
            for name, value in trial["recipe"].items()
            if any(other["recipe"][name] != value for other in trials)
        }
        table.add_row(
            recipe_words(differing),
            *(
                ["diverged", "-"]
                if trial["energy_score"] is None
                else [
                    f"{trial[name]:.3f} ± {trial[error]:.3f}"
                    for name, error in (("energy_score", "std_error"), ("gap_to_best", "gap_std_error"))
                ]
            ),
            *(f"{trial[name]:.3f}" for name in ("accuracy_in", "accuracy_out")),
        )
    return table


def recipe_words(fields: Mapping[str, Any]) -> str:
    """Formats fields of a recipe in `match.json`, such as `epochs 30, augment crop 4 flip`."""
    return ", ".join(f"{name} {_setting(value)}" for name, value in fields.items())


def _setting(value: Any) -> str:
    """Formats a field of a recipe in a word or two."""
    if isinstance(value, dict):
        return " ".join(name if of is True else f"{name} {of}" for name, of in value.items() if of) or "none"
    return "default" if value is None else f"{value:g}"


def vulnerable_table(metrics: "RunMetrics") -> Table:
    """Table of the most vulnerable samples: gaps, and margins of the target and of its shadows with their spread."""
    title = "most vulnerable samples: gap between IN and OUT in standard deviations, logit margins in nats"
    table = Table(title=title, title_justify="left")
    for column in ("id", "class", "", "gap", "target", "shadows IN", "shadows OUT"):
        table.add_column(column, justify="left" if column in ("id", "") else "right")
    for sample in metrics.vulnerable:
        table.add_row(
            _printable(sample.id),
            str(sample.label),
            {1: "member", 0: "non-member", None: "private"}[sample.membership],
            _number(sample.gap),
            _number(sample.target),
            _fit(sample.in_mean, sample.in_std),
            _fit(sample.out_mean, sample.out_std),
        )
    return table


def expectation_lines(metrics: "RunMetrics") -> list[str]:
    """Lines with the TPR expected on private samples, the target's distance from its shadows, and the epsilon bound."""
    lines = []
    if expected := metrics.private:
        lines.append(
            f"private samples: expected TPR {expected.value:.4f} at {100 * expected.fpr:g} % FPR "
            f"({expected.low:.4f} - {expected.high:.4f}), if the target was trained as its shadows were"
            + (f" (it was not: {metrics.other_network})" if metrics.other_network else "")
            + ("; measured on shadows, without alignment" if metrics.aligned_for_target else "")
        )
    elif metrics.no_estimate:
        lines.append(f"private samples: no estimate: {metrics.no_estimate}")
    if (likeness := metrics.likeness) and likeness.unlike:
        wider = "a wider search by `jaxmia match` may find a better recipe"
        lines.append(likeness.warning(wider if metrics.matched else "`jaxmia match` searches for a better recipe"))
    if metrics.audit and (other := metrics.audit.uninformed):
        gains = [("AUC", other.auc_gain), (f"TPR at {100 * metrics.fpr:g} % FPR", other.tpr_gain)]
        lines += [
            f"{name}: {gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}) over an attack without known memberships "
            f"({other.attack})"
            for name, gain in gains
            if gain
        ]
    bound = metrics.epsilon
    if bound.lower is None:
        lines.append(f"epsilon: no bound, because {bound.reason}")
    else:
        lines.append(
            f"epsilon: at least {bound.lower:.3f} at delta {bound.delta:g}, with {100 * bound.confidence:g} % "
            "confidence, if a fair coin decided for each scored public sample whether the target was trained on it"
        )
    return lines


def _fit(mean: float | None, std: float | None) -> str:
    return "-" if mean is None else f"{mean:.2f} ({_number(std)})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _printable(name: str) -> Text:
    """Formats a name from a file as one short table cell without markup or control characters."""
    shown = name if len(name) <= 32 else f"{name[:29]}..."
    return Text(shown if shown.isprintable() else repr(shown))


def bench_table(result: dict[str, Any]) -> Table:
    """Table of the result of `jaxmia.machine.bench.describe`, one row per contender."""
    from jaxmia.machine.bench import memory, products, verdict

    rows = result["rows"]
    failures = [f"{row['name']}, {row['width']} models: {row['failure']}" for row in rows if row["failure"]]
    table = Table(
        title=f"{result['subject']['shadow']['architecture']} on {result['origin']['device']}: matrix products "
        f"{products(result['scale'])}",
        title_justify="left",
        caption="\n".join([*filter(None, [verdict(rows), _step_line(result.get("step"))]), *failures]),
        caption_justify="left",
    )
    for column in ("how", "models", "images/s", "models/h", "ceiling", "compile", "memory", "peak"):
        table.add_column(column, justify="left" if column == "how" else "right", no_wrap=True)
    for row in rows:
        if row["images_per_second"] is None:
            table.add_row(row["name"], str(row["width"]), row["failure"].partition(":")[0])
            continue
        table.add_row(
            row["name"],
            str(row["width"]),
            f"{row['images_per_second']:,.0f}",
            f"{float(format(row['models_per_hour'], '.3g')):,.10g}",
            f"{100 * row['share_of_ceiling']:.0f} %",
            f"{row['compile_seconds']:.1f} s",
            memory(row.get("bytes")),
            memory(row["peak_bytes"]),
        )
    return table


def _step_line(step: dict[str, Any] | None) -> str | None:
    if not step:
        return None
    shares = ", ".join(f"{share:.0%} {kind}" for kind, share in step["shares"].items() if round(share, 2))
    return f"a step of {step['width']} models ({step['name']}) takes {duration(step['step_seconds'])}: {shares}"


def comparison_table(results: Sequence[dict[str, Any]]) -> Table:
    """Table that compares several machines by the best rate of each way of training."""
    table = Table(title="images/s, best width", title_justify="left")
    table.add_column("how")
    for result in results:
        table.add_column(f"{result['origin']['device']} ({result['origin'].get('host', '')})", justify="right")
    for name in dict.fromkeys(row["name"] for result in results for row in result["rows"]):
        cells = []
        for result in results:
            rates = [row["images_per_second"] for row in result["rows"] if row["name"] == name]
            known = [rate for rate in rates if rate]
            cells.append(f"{max(known):,.0f}" if known else "-")
        table.add_row(name, *cells)
    return table


def _log_progress(title: str) -> Callable[["ChunkProgress"], None]:
    meter, last = ThroughputMeter(), [time.monotonic() - _SECONDS_BETWEEN_LINES]

    def on_progress(progress: "ChunkProgress") -> None:
        figures = _figures(meter(progress))
        if time.monotonic() - last[0] >= _SECONDS_BETWEEN_LINES or progress.done == progress.total:
            last[0] = time.monotonic()
            logger.info(f"{_doing(title, progress)} {100 * progress.done / progress.total:.0f}% {figures}".rstrip())

    return on_progress


def _doing(title: str, progress: "ChunkProgress") -> str:
    return " ".join([title, *_span(progress.models), progress.stage])


def _span(models: Sequence[int]) -> list[str]:
    """Words for the numbers of some models: their range, and how many there are if it has gaps; none without models."""
    if not models:
        return []
    first, last, count = models[0], models[-1], len(set(models))
    gaps = [f"({count} of them)"] if count <= last - first else []
    return [str(first) if first == last else f"{first}-{last}", *gaps]


def _figures(moment: dict[str, Any]) -> str:
    """Formats the figures of a `ThroughputMeter` in one line."""
    parts = []
    if moment["stage"] == "training":
        parts = [f"epoch {moment['epoch']:.0f}/{moment['epochs']}"]
        named = (("loss", "loss"), ("accuracy IN", "accuracy_in"), ("OUT", "accuracy_out"))
        parts += [f"{name} {moment[field]:.3f}" for name, field in named if not math.isnan(moment[field])]
    if moment["images_per_second"]:
        parts.append(f"{moment['images_per_second']:,.0f} images/s")
    return " ".join(parts)
