"""The first thing a reader wants to know: how good the attack is expected to be."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxmia.evaluation.metrics import Estimate
from jaxmia.plots.panels import paint_intervals
from jaxmia.plots.style import Plot, draw
from jaxmia.report.results import Results


@dataclass(frozen=True)
class Figure:
    """One answer to the question.

    Attributes:
        name: Where it comes from, in a word: `expected`, `public` or `private`.
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


def reach_verdict(results: Results) -> Verdict:
    """Sets what the shadows promise beside what public samples, and the truth where it is known, show."""
    fpr = results.metrics.fpr
    figures = [figure for figure in (_promised(results), _public(results), _private(results)) if figure]
    remarks = tuple(_remarks(results, {figure.name: figure for figure in figures}))
    if not figures:
        unknown = f"How strong the attack is at a false positive rate of {_percent(fpr)} could not be measured."
        return Verdict(unknown, (), remarks, None)
    rows = [(figure.name, figure.estimate) for figure in figures]
    plot = draw(
        "verdict",
        f"True positive rate at a false positive rate of {_percent(fpr)}, with 95 % intervals.",
        lambda axes: paint_intervals(axes, rows, fpr, f"TPR at {_percent(fpr)} FPR"),
        height=0.75 + 0.28 * len(rows),
    )
    return Verdict(_sentence(figures, fpr), tuple(figures), remarks, plot)


def _promised(results: Results) -> Figure | None:
    """What `metrics.json` promises, and nothing else."""
    private = results.metrics.private
    if private is None:
        return None
    how = (
        "the attack was chosen on one half of them and measured on the other"
        if results.metrics.selection
        else "attacked with the attack that was named"
    )
    return Figure("expected", private.estimate, f"{private.targets} shadows that played the target; {how}")


def _public(results: Results) -> Figure | None:
    public = results.metrics.public
    measured = public.at(results.metrics.fpr) if public else None
    if not (public and measured):
        return None
    return Figure("public", measured, f"{public.members:,} public members and {public.nonmembers:,} public non-members")


def _private(results: Results) -> Figure | None:
    if results.truth is None:
        return None
    figures = results.truth.figures
    measured = figures.at(results.metrics.fpr)
    basis = f"{figures.members:,} private members and {figures.nonmembers:,} private non-members, from the given truth"
    return Figure("private", measured, basis) if measured else None


def _sentence(figures: Sequence[Figure], fpr: float) -> str:
    first, last = figures[0], figures[-1]
    found = {
        "expected": "the attack is expected to identify {} of the private members",
        "public": "the attack identified {} of the public members",
        "private": "the attack identified {} of the private members",
    }[first.name].format(_share(first.estimate))
    sentence = f"At a false positive rate of {_percent(fpr)}, {found}; guessing identifies {_percent(fpr)}."
    if first.estimate.low <= fpr:
        sentence += " That is not distinguishable from guessing."
    if last.name == "private" and last is not first:
        sentence += f" According to the given truth, it identified {_share(last.estimate)}."
    return sentence


def _share(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} % (95 % interval {100 * estimate.low:.1f} to {100 * estimate.high:.1f} %)"


def _percent(rate: float) -> str:
    return f"{100 * rate:g} %"


def _remarks(results: Results, figures: dict[str, Figure]) -> list[str]:
    metrics = results.metrics
    remarks = []
    if metrics.told:
        remarks.append(
            f"The membership of {metrics.told:,} public samples was taken as told: their members trained every shadow, "
            "their non-members none. They are not scored, and every figure on this page is about the other samples."
        )
    if metrics.rounds > 1:
        remarks.append(
            "Half of the shadows were trained in a second round, on members drawn by the scores of the first. These "
            "cannot play the target, so what shadows promise was measured on the first round alone: with half of the "
            "models and without what the second adds."
        )
    if metrics.audit:
        remarks.append(
            f"An informed audit: each sample was scored by shadows that took the memberships of all samples outside of "
            f"its fold, one of {metrics.audit.folds}, as told."
        )
    if metrics.audit and (other := metrics.audit.uninformed) and other.tpr_gain:
        gain = other.tpr_gain
        remarks.append(
            f"An attack that knows no membership ({other.attack}) finds {100 * gain.value:.1f} points fewer of the "
            f"members at the same false positive rate (95 % interval {100 * gain.low:.1f} to {100 * gain.high:.1f})."
        )
    if "expected" in figures:
        remarks.append(
            "Expected: where the result for one more target would lie if it were trained like the shadows and had as "
            "many private samples."
        )
    if "public" in figures:
        remarks.append(f"Public: measured on the target itself. {_role_of_labels(results)}")
    if metrics.unlike_shadows:
        remarks.append(
            f"The target is unlike its shadows: its logit margins lie {metrics.misalignment:.1f} standard deviations "
            "from theirs, further than chance takes one target in 10,000. What was measured on shadows need not hold "
            "for it; jaxmia match looks for a recipe that comes closer."
        )
    if {"expected", "public"} <= set(figures):
        expected, public = figures["expected"].estimate, figures["public"].estimate
        if public.high < expected.low:
            remarks.append("The public figure is below what the shadows promise: trust the public one.")
        elif public.low > expected.high:
            remarks.append(
                "The public figure is above what the shadows promise: their recipe differs from the target's."
            )
    if metrics.private is None and (private := int((~results.pool.public).sum())):
        why = (
            "fused runs may share masks, so no shadow can play the target"
            if metrics.families
            else f"there are too few of them ({private:,}), or no shadow could play the target"
        )
        remarks.append(f"Nothing is promised for the private samples: {why}.")
    return remarks


def _role_of_labels(results: Results) -> str:
    metrics = results.metrics
    if metrics.matched:
        return "jaxmia match chose the shadows' recipe by the public labels, so they had a small part in this figure."
    if metrics.families:
        return "Their labels had no part in how the runs were fused."
    if metrics.selection:
        return "Their labels had no part in the choice of the attack."
    return "The attack was named by hand, so the figure is unbiased only if the name was not picked by looking at it."
