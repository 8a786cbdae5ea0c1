"""Measures how often a target is called unlike its shadows, by two distances.

    python -m benchmarks.study.known train --out runs/known --images images.npz
    python -m benchmarks.unlike_shadows --out runs/known

Reads the margins of `benchmarks.study.known` and writes `benchmarks/results/unlike_shadows_cpu.md`. Targets of the
shadows' own recipe should be called unlike as rarely as the limit says, targets of similar recipes as often as
possible.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from benchmarks.study.sets import KNOWN, OWN, REGIMES, SHADOWS, Regime, read, shadows, targets
from jaxmia.attacks import Evidence, misaligned, misalignment
from jaxmia.data.masks import Masks
from jaxmia.evaluation.unlike import fixed_distance, likeness_to_shadows
from jaxmia.files import write_text

RESULTS = Path(__file__).parent / "results/unlike_shadows_cpu.md"

COUNTS = (8, 16, 32)
RATES = (0.05, 0.01)

METHODS = ("level and width", "sample by sample")

Judged = dict[str, list[tuple[float, bool]]]
"""For each method: the p-value of each target's distance, and whether the target is called unlike."""


def judge(free: Evidence, fixed: Evidence, judged: Judged) -> None:
    """Adds a target with its two distances, which are the largest of two figures and of four."""
    models = len(free.shadows)
    for method, distance, figures, unlike in (
        (METHODS[0], misalignment(free), 2, misaligned(free)),
        (METHODS[1], fixed_distance(fixed), 4, likeness_to_shadows(free, fixed).unlike),
    ):
        chance = 2 * figures * float(student.sf(distance, models - 1))
        judged.setdefault(method, []).append((chance, unlike))


def judge_regime(out: Path, regime: Regime, count: int) -> tuple[Judged, Judged]:
    """Judges targets of the shadows' own recipe and of similar ones against disjoint groups of shadows.

    The shadows outside a group are targets of their own recipe, too.
    """
    trained, attacked = read(out, shadows(regime, KNOWN)), read(out, [targets(regime)])
    free = Masks.knowing(regime.seed, trained["membership"], KNOWN).free
    own: Judged = {}
    near: Judged = {}

    def evidence(chosen: np.ndarray, group: np.ndarray) -> Evidence:
        phi, mask = trained["phi"][group, :1][:, :, chosen], trained["mask"][group][:, chosen]
        return Evidence(attacked["phi"][0, :1][:, chosen], phi, mask, trained["labels"][chosen])

    for group in np.arange(SHADOWS).reshape(-1, count):
        sides = evidence(free, group), evidence(~free, group)
        others = np.setdiff1d(np.arange(SHADOWS), group)
        for margins, judged in (
            (trained["phi"][others, :1], own),
            (attacked["phi"][:OWN, :1], own),
            (attacked["phi"][OWN:, :1], near),
        ):
            for target in margins:
                judge(sides[0].with_target(target[:, free]), sides[1].with_target(target[:, ~free]), judged)
    return own, near


def rows(out: Path, count: int) -> Iterator[str]:
    """Rows of the table of a number of shadows, in percent of the targets."""
    for regime in REGIMES:
        found = judge_regime(out, regime, count)
        for method in METHODS:
            cells = []
            for judged in found:
                chances, unlike = map(np.array, zip(*judged[method], strict=True))
                cells += [f"{100 * (chances < rate).mean():.1f}" for rate in RATES] + [f"{100 * unlike.mean():.1f}"]
            yield f"| {regime.name} | {method} | " + " | ".join(cells) + " |"


def page(out: Path) -> str:
    """Formats the results as Markdown tables."""
    lines = [
        "# How often a target is called unlike its shadows",
        "",
        f"Shadows with {100 * KNOWN:g} % of the public memberships fixed, and targets, of [the study of known "
        "memberships](study_known_cpu.md). Level and width: the median and interquartile range of the target's margins "
        "on the free samples. Sample by sample: its margins on the fixed samples, each compared with those of the "
        "shadows on that sample (`jaxmia.evaluation.unlike`). Shares of targets in percent: those whose distance would "
        "be reached by chance in fewer than 5 % or 1 % of cases, and those that are called unlike (about one in 10,000 "
        "by chance). Targets of the own recipe are further models of it, targets of similar recipes differ in epochs "
        "(by up to 25 %), learning rate (40 %) and weight decay (a factor of two). They are judged against disjoint "
        "groups of shadows, so the cases of a row are not independent.",
    ]
    for count in COUNTS:
        lines += ["", f"## {count} shadows", ""]
        lines += ["| regime | distance | own: 5 % | 1 % | unlike | similar: 5 % | 1 % | unlike |"]
        lines += ["| --- | --- |" + " ---: |" * 6, *rows(out, count)]
    lines += ["", "Made by `python -m benchmarks.unlike_shadows`."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parses the command line and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/known"), help="folder of the study's margins")
    write_text(RESULTS, page(parser.parse_args().out))


if __name__ == "__main__":
    main()
