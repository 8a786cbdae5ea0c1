"""The page and the plot of a study of what is known of a target."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.study.sets import CHUNK, CURVE, HALF, KNOWN, OWN, REGIMES, Regime
from benchmarks.study.strength import mean_of
from benchmarks.study.tables import TITLES, points, table
from benchmarks.study.variants import BOTH, FIGURES, FIXED, ONE, PUBLISHED_WITH, RANDOM, VARIANTS, VIEWS, Variant
from jaxmia.attacks.catalogue import AUTO
from jaxmia.files import atomic_write

Cell = dict[str, Any]
Row = Callable[[Regime, int, str], np.ndarray]
"""A figure on each target of a regime's own recipe, with a number of shadows, `[target]`."""

TUNED, HELD = slice(0, OWN // 2), slice(OWN // 2, OWN)
"""Targets on which the share was chosen, and those on which it was not."""


@dataclass(frozen=True)
class Found:
    """The cells of a study, by what they are of."""

    cells: Sequence[Cell]

    def cell(self, regime: Regime, variant: Variant, models: int) -> Cell | None:
        """The cell of a variant, if it was measured."""
        key = regime.name, variant.known, len(variant.columns(regime)), models
        return next((one for one in self.cells if _key(one) == key), None)

    def auto(self, variant: Variant) -> Row:
        """`auto` in a variant."""
        return lambda regime, models, figure: np.array(self._cell(regime, variant, models)[AUTO][figure][:OWN])

    def published(self, *variants: Variant) -> Row:
        """The published attack with the largest mean on these very targets in any of the variants."""

        def best(regime: Regime, models: int, figure: str) -> np.ndarray:
            tried = [found[figure] for _, found in self.attacks(regime, models, variants)]
            return np.array(max(tried, key=lambda values: float(np.mean(values))))

        return best

    def attacks(self, regime: Regime, models: int, variants: Sequence[Variant]) -> Iterator[tuple[str, Any]]:
        """Every published attack in each of the variants, and its figures."""
        for variant in variants:
            for name, figures in self._cell(regime, variant, models)["published"].items():
                yield f"`{name}`, {variant.views}", figures

    def complete(self, variants: Sequence[Variant]) -> list[int]:
        """Numbers of shadows with which all regimes were attacked in all of the variants."""
        counts = sorted({cell["models"] for cell in self.cells})
        return [n for n in counts if all(self.cell(regime, one, n) for regime in REGIMES for one in variants)]

    def _cell(self, regime: Regime, variant: Variant, models: int) -> Cell:
        found = self.cell(regime, variant, models)
        assert found is not None
        return found


def _key(cell: Cell) -> tuple[str, float, int, int]:
    return cell["regime"], cell["known"], cell["views"], cell["models"]


def page(result: dict[str, Any]) -> str:
    """The page, in Markdown."""
    found, made = Found(result["cells"]), result["origin"]
    counts = found.complete((*VARIANTS, ONE))
    lines = [
        "# What fixed memberships and views gain",
        "",
        f"Photographs at 12x12, {HALF:,} public and {HALF:,} private in each of four regimes, each with a draw of its",
        "own; `cnn` of width 16. Half of the public samples are members; which ones is known. In every regime",
        f"{OWN} targets are trained by the shadows' own recipe, on the public members and on a random half of the",
        "private samples, another for each; as many more by recipes near it. All were trained by jaxmia, like the",
        "shadows. They share shadows and photographs, so the intervals (Student's, 95 %, over targets) include the",
        "variation between targets, but not that of shadows and photographs. All figures are on private samples.",
        "",
        f"With *fixed memberships* every shadow is trained on the members among {100 * KNOWN:.0f} % of the public",
        "half, and on none of the non-members among them (`shadow.known`); otherwise all masks are random. *Two views*",
        "are the image and its mirror image; `query.views: auto` takes 18 where training crops and flips, two where it",
        "flips, one elsewhere. Fewer shadows are the first of the same set. Bars are standard errors.",
        "",
        f"Made by `python -m benchmarks.study.known` at commit {made['commit']} on {made['device']},",
        f"JAX {made['jax']}, NumPy {made['numpy']}. [Figures](study_known_cpu.json) of every target. Figures are in",
        "percent, differences in points.",
        "",
        "![TPR by number of shadows in each regime; predicted and measured TPR](study_known_cpu.png)",
        "",
        *_regimes(result),
        *_main(found, counts[-1]),
        *_by_count(found, counts),
        *_curve(found),
        *_published(found, counts[-1]),
        *_predictions(found),
        *_cost(result, found),
    ]
    return "\n".join(lines) + "\n"


def _regimes(result: dict[str, Any]) -> list[str]:
    rows = []
    for regime in REGIMES:
        recipe, (inside, outside) = regime.recipe, np.mean(result["accuracy"][regime.name][:OWN], axis=0)
        augment = " and ".join(["crop 1"] * bool(recipe.augment.crop) + ["flip"] * recipe.augment.flip) or "none"
        fields = (recipe.epochs, recipe.learning_rate, recipe.weight_decay, recipe.label_smoothing)
        views = len(BOTH.columns(regime))
        rows.append([regime.name, *(f"{field:g}" for field in fields), augment, views, _pair(inside, outside)])
    columns = ["epochs", "learning rate", "decay", "smoothing", "augment", "views by auto", "accuracy IN, OUT"]
    return ["## Regimes", "", *table(["regime", *columns], rows), ""]


def _pair(one: float, other: float) -> str:
    return f"{100 * one:.1f}, {100 * other:.1f}"


def _main(found: Found, models: int) -> list[str]:
    """Every variant, and what it gains."""
    few, many = found.published(ONE, RANDOM), found.published(*PUBLISHED_WITH)
    levels = {f"`auto`, {one.name}": found.auto(one) for one in VARIANTS} | {
        "best published, random masks, one or two views": few,
        "best published, random masks, any views": many,
    }
    gains = {
        "fixed memberships alone": (found.auto(FIXED), found.auto(RANDOM)),
        "views by auto alone": (found.auto(VIEWS), found.auto(RANDOM)),
        "both": (found.auto(BOTH), found.auto(RANDOM)),
        "fixed memberships, given the views": (found.auto(BOTH), found.auto(VIEWS)),
        "both, against the best published, one or two views": (found.auto(BOTH), few),
        "both, against the best published, any views": (found.auto(BOTH), many),
    }
    lines = [
        f"## With {models} shadows",
        "",
        "The best published attack is the one with the largest mean on these very targets, which favours it.",
        "",
    ]
    header = [*(regime.name for regime in REGIMES), "mean"]
    for figure in FIGURES:
        rows = []
        for name, row in levels.items():
            means = [row(regime, models, figure).mean() for regime in REGIMES]
            rows.append([name, *(f"{100 * mean:.1f}" for mean in (*means, np.mean(means)))])
        lines += [f"### {TITLES[figure]}", "", *table(["attack", *header], rows), ""]
        rows = []
        for name, (one, other) in gains.items():
            groups = [one(regime, models, figure) - other(regime, models, figure) for regime in REGIMES]
            rows.append([name, *(points(mean_of([group])) for group in groups), points(mean_of(groups))])
        lines += [*table(["gain, paired by target", *header], rows), ""]
    return lines


def _by_count(found: Found, counts: Sequence[int]) -> list[str]:
    best, published_counts = found.published(*PUBLISHED_WITH), found.complete(PUBLISHED_WITH)
    lines = ["## By number of shadows", "", "Means over regimes.", ""]
    for figure in FIGURES:

        def means(row: Row, measured: Sequence[int], figure: str = figure) -> list[str]:
            return [
                f"{100 * np.mean([row(regime, n, figure) for regime in REGIMES]):.1f}" if n in measured else "-"
                for n in published_counts
            ]

        cells = [[f"`auto`, {one.name}", *means(found.auto(one), counts)] for one in VARIANTS]
        cells.append(["best published, any views", *means(best, published_counts)])
        lines += [*table([TITLES[figure], *(f"{n} shadows" for n in published_counts)], cells), ""]
    most = published_counts[-1]
    for n in (n for n in counts if 16 <= n < most):
        groups = [found.auto(BOTH)(one, n, FIGURES[0]) - best(one, most, FIGURES[0]) for one in REGIMES]
        lines += [
            f"Both with {n} shadows against the best published with {most}: {points(mean_of(groups))} points of TPR",
            f"at 5 % FPR in the mean; by regime {', '.join(points(mean_of([group])) for group in groups)}.",
            "",
        ]
    return lines


def _curve(found: Found) -> list[str]:
    shares = sorted({0.0, KNOWN, *CURVE})
    lines = [
        "## The share that is fixed",
        "",
        f"`auto` with {CHUNK} shadows and views by `auto`. More is better on targets 1 to {TUNED.stop}, on which the",
        f"share was chosen, and on targets {TUNED.stop + 1} to {OWN}, which had no part in that. Where all are fixed,",
        "no public sample is left to be measured on: the default is the largest share below.",
        "",
    ]
    for figure in FIGURES:
        rows = []
        for share in shares:
            variant = Variant(BOTH.name, share, BOTH.views)
            there = [regime for regime in REGIMES if found.cell(regime, variant, CHUNK)]
            values = {regime.name: found.auto(variant)(regime, CHUNK, figure) for regime in there}
            cells = [f"{100 * values[one.name].mean():.1f}" if one in there else "-" for one in REGIMES]
            halves = [np.mean([each[half] for each in values.values()]) for half in (TUNED, HELD) if there]
            means = [f"{100 * mean:.1f}" for mean in halves] if len(there) == len(REGIMES) else ["-", "-"]
            rows.append([f"{share:g}", *cells, *means])
        names = [regime.name for regime in REGIMES]
        columns = [*names, f"mean, targets 1 to {TUNED.stop}", f"mean, targets {TUNED.stop + 1} to {OWN}"]
        lines += [*table([f"share, {TITLES[figure]}", *columns], rows), ""]
    return lines


def _published(found: Found, models: int) -> list[str]:
    rows: dict[str, list[str]] = {}
    for regime in REGIMES:
        for name, figures in found.attacks(regime, models, (ONE, RANDOM)):
            rows.setdefault(name, []).append(f"{100 * np.mean(figures[FIGURES[0]]):.1f}")
    listed = [[name, *cells] for name, cells in sorted(rows.items())]
    return [
        f"## Every published attack, random masks, {models} shadows",
        "",
        "TPR at 5 % FPR with one view or two. LiRA as published is the authors' program, with one variance for all or",
        "each sample's; LeakPro's form is listed separately. `base-online` is BASE, temperature 2 its form in LeakPro.",
        "",
        *table(["attack, views", *(regime.name for regime in REGIMES)], listed),
        "",
    ]


def outcomes(found: Found, variant: Variant, targets: slice) -> np.ndarray:
    """Predicted TPR, its interval and the measured TPR, `[4, case]`, over regimes, numbers of shadows and targets."""
    rows = [
        (*cell["promised"], measured)
        for regime in REGIMES
        for models in found.complete(VARIANTS)
        if models >= CHUNK and (cell := found.cell(regime, variant, models))
        for measured in cell[AUTO][FIGURES[0]][targets]
    ]
    return np.array(rows).T


def _predictions(found: Found) -> list[str]:
    rows = []
    for variant in VARIANTS:
        for name, targets in (("the shadows' own", slice(0, OWN)), ("near it", slice(OWN, None))):
            predicted, low, high, measured = outcomes(found, variant, targets)
            inside = ((low <= measured) & (measured <= high)).mean()
            below = (measured < low).mean()
            rows.append(
                [variant.name, name, len(measured), _pair(predicted.mean(), measured.mean()), _pair(inside, below)]
            )
    return [
        "## Predicted and measured",
        "",
        "TPR at 5 % FPR that a run predicts for the private samples, with its 95 % interval for one target, and that",
        "of `auto`; 16 shadows and more. Cases of one regime share shadows, so they are not independent.",
        "",
        *table(
            ["variant", "recipe of the targets", "cases", "predicted, measured", "in the interval, below it"],
            rows,
        ),
        "",
    ]


def _cost(result: dict[str, Any], found: Found) -> list[str]:
    rows = []
    for regime in REGIMES:
        train, query = result["seconds"][regime.name]
        views, queried = len(BOTH.columns(regime)), len(regime.views)
        seconds = [cell["seconds"] for one in (RANDOM, BOTH) if (cell := found.cell(regime, one, CHUNK))]
        costs = [train, 2 * query / queried, views * query / queried, *seconds]
        rows.append([regime.name, *(f"{cost:.1f}" for cost in costs)])
    return [
        "## Cost",
        "",
        f"Seconds of {CHUNK} shadows: training and queries of the fastest {CHUNK} in the study, and the selection of",
        "the attack as timed once; other work ran at the same time as most of it. Fixing memberships costs nothing:",
        "the samples and steps are as many.",
        "",
        *table(
            ["regime", "training", "query, two views", "query, views by auto", "`auto`, two views", "`auto`, both"],
            rows,
        ),
    ]


def draw(result: dict[str, Any], path: Path) -> None:
    """TPR by number of shadows in every regime, and predicted against measured TPR."""
    found = Found(result["cells"])
    counts = found.complete((*VARIANTS, ONE))
    published_counts = found.complete(PUBLISHED_WITH)
    rows = {
        "auto, fixed memberships, views by auto": (found.auto(BOTH), counts),
        "auto, fixed memberships, two views": (found.auto(FIXED), counts),
        "auto, random masks, two views": (found.auto(RANDOM), counts),
        "best published, any views": (found.published(*PUBLISHED_WITH), published_counts),
    }
    figure = Figure(figsize=(13, 3.2), layout="constrained")
    *panels, calibration = figure.subplots(1, len(REGIMES) + 1)
    for axes, regime in zip(panels, REGIMES, strict=True):
        for shift, (name, (row, measured)) in enumerate(rows.items()):
            values = 100 * np.array([row(regime, n, FIGURES[0]) for n in measured])
            errors = values.std(1, ddof=1) / np.sqrt(OWN)
            axes.errorbar(np.array(measured) * 1.03**shift, values.mean(1), errors, marker=".", label=name)
        axes.set_xscale("log", base=2)
        axes.set(title=regime.name, xlabel="shadows", xticks=published_counts, xticklabels=published_counts)
    panels[0].set_ylabel("TPR at 5 % FPR (%)")
    for name, targets, marker in (("own recipe", slice(0, OWN), "o"), ("near it", slice(OWN, None), "x")):
        predicted, low, high, reached = 100 * outcomes(found, BOTH, targets)
        calibration.errorbar(
            reached,
            predicted,
            [predicted - low, high - predicted],
            fmt=marker,
            markersize=3,
            elinewidth=0.3,
            label=name,
        )
    calibration.plot([0, 100], [0, 100], color="black", linewidth=0.6)
    calibration.set(title="predictions", xlabel="measured (%)", ylabel="predicted (%)", xscale="log", yscale="log")
    calibration.set(xlim=(5, 100), ylim=(3, 100))
    calibration.legend(frameon=False, fontsize=7)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=130)
