"""Summary at the top of the report: how strong the attack is expected to be."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxmia.evaluation.intervals import Estimate
from jaxmia.plots.panels import paint_intervals
from jaxmia.plots.style import Plot, draw
from jaxmia.report.likeness import Comparison
from jaxmia.report.results import Results
from jaxmia.runs.metrics import RunMetrics


@dataclass(frozen=True)
class Figure:
    """An estimate of the attack's TPR.

    Attributes:
        name: Source of the estimate: `expected`, `public` or `private`.
        estimate: TPR at the configured FPR, with its 95 % interval.
        basis: Description of what it was measured on.
    """

    name: str
    estimate: Estimate
    basis: str


@dataclass(frozen=True)
class Verdict:
    """Summary of how strong the attack is.

    Attributes:
        sentence: The result in one sentence.
        figures: Estimates behind it; empty if nothing could be measured.
        remarks: Remarks needed to interpret the estimates.
        plot: Plot of the estimates; None if there are none.
    """

    sentence: str
    figures: tuple[Figure, ...]
    remarks: tuple[str, ...]
    plot: Plot | None


def reach_verdict(results: Results, comparison: Comparison | None) -> Verdict:
    """Compares the TPR expected from pseudo-targets with that on public samples and, if known, on private ones.

    Args:
        results: Results of a scored run.
        comparison: Comparison of the target with its shadows, if it was possible.
    """
    fpr = results.metrics.fpr
    figures = [figure for figure in (_expected(results), _public(results), _private(results)) if figure]
    remarks = tuple(_remarks(results, comparison, {figure.name: figure for figure in figures}))
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
    return Verdict(_sentence(figures, results.metrics), tuple(figures), remarks, plot)


def _expected(results: Results) -> Figure | None:
    """The expected TPR that `metrics.json` holds, if there is one."""
    private = results.metrics.private
    if private is None:
        return None
    how = (
        "the attack was selected on one half of them and measured on the other"
        if results.metrics.selection
        else "the attack was named in the configuration"
    )
    if results.metrics.aligned_for_target:
        how += ", without alignment"
    return Figure("expected", private.estimate, f"{private.targets} shadow models as pseudo-targets; {how}")


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
    basis = (
        f"{figures.members:,} private members and {figures.nonmembers:,} private non-members of the given truth file"
    )
    return Figure("private", measured, basis) if measured else None


def _sentence(figures: Sequence[Figure], metrics: RunMetrics) -> str:
    first, last, fpr = figures[0], figures[-1], metrics.fpr
    found = {
        "expected": "the attack is expected to identify {} of the private members" + _condition(metrics),
        "public": "the attack identified {} of the public members",
        "private": "the attack identified {} of the private members",
    }[first.name].format(_share(first.estimate))
    sentence = f"At a false positive rate of {_percent(fpr)}, {found}; random guessing identifies {_percent(fpr)}."
    if first.estimate.low <= fpr:
        sentence += " This is not distinguishable from guessing."
    if first.name == "expected" and (metrics.other_network or metrics.unlike_shadows):
        sentence += "".join(
            f" On the public samples, it identified {_share(figure.estimate)}."
            for figure in figures
            if figure.name == "public"
        )
    if last.name == "private" and last is not first:
        sentence += f" According to the given truth file, it identified {_share(last.estimate)}."
    return sentence


def _condition(metrics: RunMetrics) -> str:
    """What the expected figure assumes, with what is known to contradict it."""
    condition = ", if the target was trained as its shadows were"
    if metrics.other_network:
        condition += f" (it was not: {metrics.other_network})"
    elif metrics.unlike_shadows:
        condition += " (it was probably not: its logit margins are unlike theirs)"
    return condition


def _share(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} % (95 % interval {100 * estimate.low:.1f} to {100 * estimate.high:.1f} %)"


def _percent(rate: float) -> str:
    return f"{100 * rate:g} %"


def _remarks(results: Results, comparison: Comparison | None, figures: dict[str, Figure]) -> list[str]:
    metrics = results.metrics
    remarks = []
    if metrics.fixed:
        remarks.append(
            f"The memberships of {metrics.fixed:,} public samples were fixed: every shadow was trained on the members "
            "among them and on none of the non-members. They are not scored, and all figures concern the other samples."
        )
    if metrics.rounds > 1:
        remarks.append(
            "Half of the shadows were trained in a second round, on samples drawn by the scores of the first. These "
            "shadows cannot serve as pseudo-targets, so the expected figure was measured on the first round alone: "
            "with half of the models, and without the gain of the second round."
        )
    if metrics.audit:
        remarks.append(
            f"This is an audit: each sample was scored by shadows trained with the true memberships of all "
            f"samples outside its fold, one of {metrics.audit.folds}."
        )
    if metrics.audit and (other := metrics.audit.uninformed) and other.tpr_gain:
        gain = other.tpr_gain
        remarks.append(
            f"Without known memberships, the attack ({other.attack}) finds {100 * gain.value:.1f} percentage points "
            f"fewer members at the same false positive rate (95 % interval {100 * gain.low:.1f} to "
            f"{100 * gain.high:.1f})."
        )
    if "expected" in figures:
        remarks.append(
            "Expected: the result for a new target that is trained as the shadows were and has as many private "
            "samples, with its prediction interval."
        )
    if "public" in figures:
        remarks.append(f"Public: measured on the target itself. {_role_of_labels(results)}")
    if metrics.unlike_shadows:
        remarks.append(
            f"The target is unlike its shadows: {metrics.likeness}, a distance that fewer than one in 10,000 targets "
            f"of the shadows' recipe would reach. Results on shadows may not apply to it; {_advice(metrics)}."
        )
    elif comparison:
        outside = sum(figure.outside for figure in comparison.figures)
        if outside > 1:
            remarks.append(
                f"{outside} of the {len(comparison.figures)} figures in which the target is compared with its shadows "
                "lie outside the range of 95 % of the shadows, so it may have been trained otherwise; its logit "
                "margins as a whole are not so far from theirs that this is certain."
            )
    if {"expected", "public"} <= set(figures):
        expected, public = figures["expected"].estimate, figures["public"].estimate
        if public.high < expected.low:
            remarks.append("The public figure is below the expected one: trust the public figure.")
        elif public.low > expected.high:
            remarks.append(
                "The public figure is above the expected one: the shadows' recipe differs from the target's."
            )
    if metrics.no_estimate:
        remarks.append(f"There is no estimate for the private samples: {metrics.no_estimate}.")
    return remarks


def _advice(metrics: RunMetrics) -> str:
    if metrics.matched:
        return "jaxmia match selected their recipe, so a wider search (the section match) may find a better one"
    return "jaxmia match searches for a better recipe"


def _role_of_labels(results: Results) -> str:
    metrics = results.metrics
    if metrics.matched:
        return "jaxmia match selected the shadows' recipe by the public labels, which biases this figure slightly."
    if metrics.fused:
        return "The public labels were not used to fuse the runs."
    if metrics.selection:
        return "The public labels were not used to select the attack."
    return "The attack was named by the user; the figure is unbiased only if it did not influence that choice."
