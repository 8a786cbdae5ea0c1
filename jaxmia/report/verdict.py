"""The first thing a reader wants to know: how good the attack is expected to be."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxmia.attacks import misaligned, misalignment
from jaxmia.evaluation.metrics import Estimate, next_target
from jaxmia.plots.panels import paint_intervals
from jaxmia.plots.style import Plot, draw
from jaxmia.report.by_models import Step
from jaxmia.report.results import Results


@dataclass(frozen=True)
class Figure:
    """One answer to the question.

    Attributes:
        name: Where it comes from, in a word or two.
        estimate: TPR at the FPR that counts, with its 95 % interval.
        basis: What it was measured on.
    """

    name: str
    estimate: Estimate
    basis: str


@dataclass(frozen=True)
class Verdict:
    """How good the attack is expected to be.

    Attributes:
        sentence: In one sentence.
        figures: The figures behind it; none where nothing could be measured.
        remarks: What one should know to read them.
        plot: The figures as a picture; None where there is none.
    """

    sentence: str
    figures: tuple[Figure, ...]
    remarks: tuple[str, ...]
    plot: Plot | None


def reach_verdict(results: Results, steps: Sequence[Step]) -> Verdict:
    """Weighs what the shadows promise against what public samples, and the truth where it is known, show.

    Args:
        results: A scored run.
        steps: The chosen attack on pseudo-targets; the last one stands in where no selection was made.
    """
    fpr = results.metrics.fpr
    figures = [figure for figure in (_promised(results, steps), _public(results), _private(results)) if figure]
    if not figures:
        unknown = "Nothing is known about how good the attack is: there are neither enough shadows nor public samples."
        return Verdict(unknown, (), (), None)
    rows = [(figure.name, figure.estimate) for figure in figures]
    plot = draw(
        "verdict",
        f"Share of members found (TPR) at {100 * fpr:g} % false alarms, with 95 % intervals.",
        lambda axes: paint_intervals(axes, rows, fpr, f"TPR at {100 * fpr:g} % FPR"),
        height=0.75 + 0.28 * len(rows),
    )
    return Verdict(_sentence(figures, fpr), tuple(figures), tuple(_remarks(results, figures)), plot)


def _promised(results: Results, steps: Sequence[Step]) -> Figure | None:
    private = int((~results.pool.public).sum())
    share = private / len(results.pool) if private else 1.0
    selection = results.metrics.selection
    if selection:
        spread = selection.expected_error * np.sqrt(selection.targets)
        estimate = next_target(selection.expected, spread, selection.targets, share)
        how = "the attack chosen on one half of them and measured on the other"
        return Figure("expected", estimate, f"{selection.targets} shadows that play the target, {how}")
    if not steps:
        return None
    reached = steps[-1].reached
    estimate = next_target(float(reached.mean()), float(reached.std(ddof=1)), len(reached), share)
    return Figure("expected", estimate, f"{len(reached)} shadows that play the target, the attack named beforehand")


def _public(results: Results) -> Figure | None:
    public = results.metrics.public
    measured = public.at(results.metrics.fpr) if public else None
    if not (public and measured):
        return None
    basis = f"{public.members:,} public members and {public.nonmembers:,} public non-members"
    return Figure("public", Estimate(measured.value, measured.low, measured.high), basis)


def _private(results: Results) -> Figure | None:
    if results.truth is None:
        return None
    figures = results.truth.figures
    measured = next(entry.resampled for entry in figures.tpr if entry.fpr == results.metrics.fpr)
    basis = f"{figures.members:,} private members and {figures.nonmembers:,} private non-members, by the given truth"
    return Figure("private", measured, basis) if measured else None


def _sentence(figures: Sequence[Figure], fpr: float) -> str:
    first, last = figures[0], figures[-1]
    found = {
        "expected": "the attack is expected to find",
        "public": "the attack found, on the public samples,",
        "private": "the attack found, on the private samples,",
    }[first.name]
    sentence = f"Of 100 members, {found} {_percent(first.estimate)} at {100 * fpr:g} false alarms in 100 non-members; "
    sentence += f"guessing finds {100 * fpr:g}."
    if first.estimate.low <= fpr:
        sentence += " That cannot be told from guessing."
    if last.name == "private" and last is not first:
        sentence += f" By the truth that was given, it found {_percent(last.estimate)} on the private samples."
    return sentence


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} (95 % interval {100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _remarks(results: Results, figures: Sequence[Figure]) -> list[str]:
    by_name = {figure.name: figure for figure in figures}
    remarks = []
    if "expected" in by_name:
        remarks.append(
            "Expected: where one more target would come out if it were trained as the shadows were, on as many samples "
            "as are in question."
        )
    if "public" in by_name:
        remarks.append(
            "Public: measured on the target itself. These labels had no part in the choice of the attack."
            if results.metrics.selection
            else "Public: measured on the target itself, with an attack that was named by hand. It is an honest figure "
            "only if it was not named by looking at it."
        )
    if misaligned(results.evidence):
        remarks.append(
            f"The target is unlike its shadows: its margins are {misalignment(results.evidence):.1f} of their standard "
            "deviations away, more than chance makes it once in 10,000 cases. What the shadows promise need not hold "
            "for it; shadows trained more as it was may do better."
        )
    if {"expected", "public"} <= set(by_name):
        promised, measured = by_name["expected"].estimate, by_name["public"].estimate
        if measured.high < promised.low:
            remarks.append("The public figure is below what the shadows promise: rather trust the public one.")
        elif measured.low > promised.high:
            remarks.append(
                "The public figure is above what the shadows promise: their recipe differs from the target's."
            )
    bound = results.metrics.epsilon
    if bound and bound.lower is not None:
        remarks.append(
            f"By the public samples, the target's training leaks at least epsilon {bound.lower:.3f} at delta "
            f"{bound.delta:g}, with {100 * bound.confidence:g} % confidence, if its members were drawn by a fair coin."
        )
    return remarks
