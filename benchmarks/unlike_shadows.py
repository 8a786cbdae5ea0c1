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
from jaxmia.attacks import Aligned, Evidence, misaligned, misalignment
from jaxmia.attacks.catalogue import distinct_attacks
from jaxmia.data.masks import DRAWN, Masks
from jaxmia.evaluation.metrics import auc, tpr_at_fpr
from jaxmia.evaluation.selection import select
from jaxmia.evaluation.unlike import fixed_distance, likeness_to_shadows
from jaxmia.files import write_text

RESULTS = Path(__file__).parent / "results/unlike_shadows_cpu.md"

COUNTS = (8, 16, 32)
RATES = (0.05, 0.01)

ALIGNED = 16
"""Shadows of an attack with and without alignment."""

FPR = 0.05

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


def masks_of(trained: dict[str, np.ndarray], regime: Regime, out: Path) -> Masks:
    """The masks of stored shadows; ends the program if they were drawn by an earlier rule."""
    masks = Masks.knowing(regime.seed, trained["membership"], KNOWN)
    if not np.array_equal(trained["mask"], masks(range(len(trained["mask"])))):
        raise SystemExit(
            f"{out}: {regime.name}: the memberships fixed in the stored shadows are not those that would be fixed now; "
            "train them again in another folder"
        )
    return masks


def judge_regime(out: Path, regime: Regime, count: int) -> tuple[Judged, Judged]:
    """Judges targets of the shadows' own recipe and of similar ones against disjoint groups of shadows.

    The shadows outside a group are targets of their own recipe, too.
    """
    trained, attacked = read(out, shadows(regime, KNOWN)), read(out, [targets(regime)])
    free = masks_of(trained, regime, out).free
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


def alignment(out: Path, regime: Regime) -> str:
    """A row on what alignment gains against targets of similar recipes, by which distance calls them unlike."""
    trained, attacked = read(out, shadows(regime, KNOWN)), read(out, [targets(regime)])
    masks = masks_of(trained, regime, out)
    gains: dict[tuple[bool, bool], list[tuple[float, float]]] = {}
    for group in np.arange(SHADOWS).reshape(-1, ALIGNED):
        mask = trained["mask"][group]
        free = masks.free & mask.any(0) & ~mask.all(0)
        seen, fixed = (
            Evidence(
                attacked["phi"][0, :2][:, chosen],
                trained["phi"][group, :2][:, :, chosen],
                mask[:, chosen],
                trained["labels"][chosen],
            )
            for chosen in (free, ~masks.free)
        )
        attack = select(seen, distinct_attacks(seen), FPR).candidate
        private = trained["membership"][free] == DRAWN
        for phi, members in zip(attacked["phi"][OWN:, :2], attacked["mask"][OWN:], strict=True):
            evidence = seen.with_target(phi[:, free])
            by_fixed = likeness_to_shadows(evidence, fixed.with_target(phi[:, ~masks.free])).unlike
            truth = members[free][private]
            scores = (one(evidence)[private] for one in (attack, Aligned(attack)))
            plain, aligned = ((tpr_at_fpr(score, truth, FPR), auc(score, truth)) for score in scores)
            gain = 100 * (aligned[0] - plain[0]), 100 * (aligned[1] - plain[1])
            gains.setdefault((misaligned(evidence), by_fixed), []).append(gain)
    cells = []
    for key in ((False, True), (True, True), (True, False), (False, False)):
        own = np.array(gains.get(key, [])).reshape(-1, 2)
        cells += [str(len(own)), f"{own[:, 0].mean():+.1f}, {own[:, 1].mean():+.1f}" if len(own) else "-"]
    return f"| {regime.name} | " + " | ".join(cells) + " |"


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
    lines += [
        "",
        "## What alignment gains",
        "",
        f"{ALIGNED} shadows, two views, the attack that `auto` selects, targets of similar recipes: number of pairs of "
        "a target and a group of shadows by which distance calls the target unlike, and what `Aligned` gains on them "
        f"in TPR at {100 * FPR:g} % FPR and in AUC, in points of a hundred, on the private samples.",
        "",
        "| regime | only sample by sample | gain | both | gain | only level and width | gain | neither | gain |",
        "| --- |" + " ---: |" * 8,
        *(alignment(out, regime) for regime in REGIMES),
    ]
    lines += ["", "Made by `python -m benchmarks.unlike_shadows`."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parses the command line and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/known"), help="folder of the study's margins")
    write_text(RESULTS, page(parser.parse_args().out))


if __name__ == "__main__":
    main()
