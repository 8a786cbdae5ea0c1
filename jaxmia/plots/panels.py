"""Panels of the report's figures, drawn from arrays into axes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator

from jaxmia.evaluation.intervals import Estimate
from jaxmia.plots.style import IN, INK, OUT

BAND = 0.22


def paint_rocs(
    axes: Axes, fprs: np.ndarray, curves: Sequence[tuple[str, str, Sequence[Estimate]]], mark: float
) -> None:
    """Draws ROC curves with confidence bands on logarithmic axes.

    Args:
        axes: Axes to draw into.
        fprs: False positive rates, `[point]`, ascending and above 0.
        curves: Label, colour and the TPR at each FPR, for each curve.
        mark: False positive rate to mark with a vertical line.
    """
    for label, colour, estimates in curves:
        value, low, high = np.array([[point.value, point.low, point.high] for point in estimates]).T
        axes.plot(fprs, value, color=colour, label=label)
        axes.fill_between(fprs, low, high, color=colour, alpha=BAND, linewidth=0)
    axes.plot([fprs[0], 1], [fprs[0], 1], color=INK, linestyle="--", linewidth=0.9, label="guessing")
    axes.axvline(mark, color=INK, linewidth=0.7, linestyle=":")
    axes.set(xscale="log", yscale="log", xlim=(fprs[0], 1), ylim=(fprs[0], 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="false positive rate (log)", ylabel="true positive rate (log)")
    axes.legend(loc="lower right")


def paint_distributions(
    axes: Axes, inside: np.ndarray, outside: np.ndarray, members: np.ndarray, nonmembers: np.ndarray
) -> None:
    """Draws densities of the logit margin: shadow models as filled histograms, the target as lines.

    Args:
        axes: Axes to draw into.
        inside: Margins of shadow models on their IN samples, in nats; each array may have any length, and an empty one
            is not drawn.
        outside: Margins of shadow models on their OUT samples.
        members: Margins of the target on members.
        nonmembers: Margins of the target on non-members.
    """
    # the bins cover every array, even if it has few margins or distant ones
    ends = [np.quantile(values, [0.005, 0.995]) for values in (inside, outside, members, nonmembers) if len(values)]
    low, high = np.min(ends), np.max(ends)
    bins = np.linspace(low, max(high, low + 1e-3), 61)
    for values, colour, label in ((inside, IN, "shadows, IN"), (outside, OUT, "shadows, OUT")):
        if len(values):
            axes.hist(values, bins, density=True, color=colour, alpha=0.4, label=label)
    for values, style, label in ((members, "-", "target, members"), (nonmembers, ":", "target, non-members")):
        if len(values):
            # wider bins, since the target has few samples
            heights, edges = np.histogram(values, bins[::2], density=True)
            axes.stairs(heights, edges, color=INK, linestyle=style, linewidth=1.2, label=label)
    axes.set(xlabel="logit margin (nats)", ylabel="density", yticks=[], xlim=(bins[0], bins[-1]))
    _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.2)


def paint_likeness(
    axes: Axes, levels: np.ndarray, sides: Sequence[tuple[tuple[str, str], str, str, np.ndarray, np.ndarray]]
) -> None:
    """Draws the difference between quantiles of the target's margins and those of the mean shadow model.

    Args:
        axes: Axes to draw into.
        levels: Levels of the quantiles, `[level]`, between 0 and 1.
        sides: Labels of shadows and target, colour, line style, and quantiles of the shadows `[model, level]` and of
            the target `[level]` in nats, for members and for non-members.
    """
    for (kind, label), colour, style, shadows, target in sides:
        centre = shadows.mean(0)
        low, high = np.quantile(shadows - centre, [0.025, 0.975], axis=0)
        axes.fill_between(100 * levels, low, high, color=colour, alpha=BAND, linewidth=0, label=kind)
        axes.plot(100 * levels, target - centre, color=colour, linestyle=style, label=label)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(xlabel="percentile of the margins", ylabel="difference (nats)", xlim=(0, 100))
    _legend_above(axes)


def paint_intervals(
    axes: Axes, rows: Sequence[tuple[str, Estimate]], chance: float, xlabel: str, *, strong: int | None = None
) -> None:
    """Draws estimates with their intervals, one below the other, and chance as a dashed line.

    Args:
        axes: Axes to draw into.
        rows: Label and estimate of each row, from the top.
        chance: Value that random guessing attains.
        xlabel: Label of the estimated quantity.
        strong: Index of the row to highlight.
    """
    for place, (_, estimate) in enumerate(rows):
        colour = IN if place == strong else OUT
        axes.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=1.6)
        axes.plot([estimate.value], [place], "o", color=colour, markersize=3.5)
    axes.axvline(chance, color=INK, linewidth=0.9, linestyle="--")
    axes.set(yticks=range(len(rows)), yticklabels=[label for label, _ in rows], ylim=(len(rows) - 0.4, -0.6))
    # right-aligned, so that it stays in the figure when long names leave little room
    axes.set_xlabel(f"{xlabel} (dashed: guessing)", loc="right")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def paint_gain(
    axes: Axes,
    models: Sequence[int],
    curves: Sequence[tuple[str, str, Sequence[Estimate | None]]],
    chance: float,
    fpr: float,
) -> None:
    """Draws the TPR against the number of shadow models, which doubles with each step.

    Args:
        axes: Axes to draw into.
        models: Number of shadow models, `[step]`.
        curves: Label, colour and the TPR at each step, None if there is none, for each curve.
        chance: TPR that random guessing attains.
        fpr: False positive rate of the TPR.
    """
    for offset, (label, colour, estimates) in enumerate(curves):
        steps = [step for step, estimate in enumerate(estimates) if estimate]
        value, low, high = np.array([[e.value, e.low, e.high] for e in estimates if e]).T
        # slightly shifted, so that the error bars of two curves do not overlap
        place = np.array(models, float)[steps] * (1.04 if offset else 0.96)
        axes.errorbar(place, value, [value - low, high - value], color=colour, marker="o", markersize=3, label=label)
    axes.axhline(chance, color=INK, linewidth=0.9, linestyle="--", label="guessing")
    axes.set_xscale("log", base=2)
    axes.set_xticks(models, [str(count) for count in models])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="shadow models (log)", ylabel=f"TPR at {100 * fpr:g} % FPR")
    axes.set_ylim(bottom=0)
    _legend_above(axes)


def paint_curves(axes: Axes, epochs: np.ndarray, curves: Sequence[tuple[str, str, np.ndarray]], ylabel: str) -> None:
    """Draws means over models, with the central 90 % of the models as a band.

    Args:
        axes: Axes to draw into.
        epochs: Epochs, `[point]`.
        curves: Label, colour and values `[model, point]`, for each curve.
        ylabel: Label of the values.
    """
    for label, colour, values in curves:
        low, high = np.quantile(values, [0.05, 0.95], axis=0)
        axes.plot(epochs, values.mean(0), color=colour, label=label)
        axes.fill_between(epochs, low, high, color=colour, alpha=BAND, linewidth=0)
    axes.set(xlabel="epoch", ylabel=ylabel, xlim=(0, epochs[-1]))
    if len(curves) > 1:
        axes.legend(loc="best")
