"""What was found: one function for each question that the page answers after the verdict."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

from jaxmia.evaluation.metrics import LEVEL, Estimate
from jaxmia.plots.panels import paint_distributions, paint_gain, paint_intervals, paint_likeness, paint_rocs
from jaxmia.plots.style import IN, OTHER, OUT, draw
from jaxmia.report.by_models import Step
from jaxmia.report.results import Results
from jaxmia.report.section import Section, Table, spell
from jaxmia.report.uncertainty import mean_of, tpr_band
from jaxmia.report.vulnerable import most_and_least_vulnerable, paint_gallery

ATTACKS_DRAWN = 12
CLASSES_DRAWN = 24
SHADOWS_COMPARED = 128
MARGINS_DRAWN = 200_000


def show_roc(results: Results, steps: Sequence[Step]) -> Section:
    """ROC curves on logarithmic axes, and the usual figures."""
    title = "How many members at how many false alarms"
    smallest = [int((~members).sum()) for _, members in _known(results)]
    smallest += [int((~trial.members).sum()) for trial in (steps[-1].trials if steps else ())]
    if not smallest:
        return Section(title, ("Left out: there are no samples of known membership and too few shadows to stand in.",))
    fprs = np.geomspace(1 / min(smallest), 1, 120)
    curves = []
    if steps:
        reached = np.array(
            [[e.value for e in tpr_band(t.scores, t.members, fprs, replicates=2)] for t in steps[-1].trials]
        )
        curves.append(("shadows as targets", OTHER, [mean_of(values) for values in reached.T]))
    colours = {"public samples": OUT, "private samples": IN}
    curves += [(name, colours[name], tpr_band(*known, fprs)) for name, known in _known_by_name(results).items()]
    caption = (
        "ROC curves with pointwise 95 % bands; guessing is the dashed diagonal, and the dotted line is at the false "
        "positive rate that counts. It ends on the left where one false alarm is all there is."
    )
    plot = draw("roc", caption, lambda axes: paint_rocs(axes, fprs, curves, results.metrics.fpr))
    return Section(title, plots=(plot,), tables=_figures_table(results), wide=True)


def show_margins(results: Results) -> Section:
    """Distributions of the logit margin."""
    phi, mask = results.shadows.phi[:, 0], results.shadows.mask
    margins = results.evidence.target[0][results.pool.public]
    caption = (
        "How far the true class leads, for shadows that were trained on a sample (IN) and that were not (OUT), and for "
        "the target on its public members and non-members. Where IN and OUT lie on each other, a threshold alone tells "
        "nothing; attacks compare sample by sample."
    )
    plot = draw(
        "margins",
        caption,
        lambda axes: paint_distributions(
            axes, _some(phi[mask]), _some(phi[~mask]), margins[results.members], margins[~results.members]
        ),
    )
    return Section("What the models say", plots=(plot,))


def show_likeness(results: Results) -> Section:
    """How alike shadows and target are: accuracy and quantiles of the margin."""
    title = "Are the shadows like the target?"
    if not results.has_public_figures:
        return Section(title, ("Left out: that needs public members and public non-members.",))
    some = slice(None, None, -(-len(results.shadows.model) // SHADOWS_COMPARED))
    phi, mask = results.shadows.phi[some, 0], results.shadows.mask[some]
    levels = np.linspace(0.01, 0.99, 99)
    margins = results.evidence.target[0][results.pool.public]
    members = results.members

    def of_shadows(trained: np.ndarray) -> np.ndarray:
        rows = [np.quantile(own[chosen], levels) for own, chosen in zip(phi, trained, strict=True) if chosen.any()]
        return np.reshape(rows, (len(rows), len(levels))).astype(np.float64)

    inside, outside = of_shadows(mask), of_shadows(~mask)
    if not (len(inside) and len(outside)):
        return Section(title, ("Left out: no shadow was trained on some samples and not on others.",))
    target = np.quantile(margins[members], levels), np.quantile(margins[~members], levels)
    caption = (
        "Quantiles of the target's margins less those of the mean shadow; at each percentile, 95 of 100 shadows lie in "
        "the band. A target outside of it was trained by another recipe."
    )
    sides = [
        (("shadows, IN", "target, members"), IN, "-", inside, target[0]),
        (("shadows, OUT", "target, non-members"), OUT, "--", outside, target[1]),
    ]
    plot = draw("likeness", caption, lambda axes: paint_likeness(axes, levels, sides))
    rows = [
        *_accuracy_rows(results),
        _likeness_row("median margin, members / IN (nats)", inside[:, 49], target[0][49]),
        _likeness_row("median margin, non-members / OUT (nats)", outside[:, 49], target[1][49]),
        _likeness_row("99th percentile, members / IN (nats)", inside[:, -1], target[0][-1]),
    ]
    head = ("", "target", "mean shadow", "95 % of shadows")
    return Section(title, plots=(plot,), tables=(Table(head, tuple(rows)),))


def show_attacks(results: Results) -> Section:
    """Attacks side by side."""
    fpr, chosen = results.metrics.fpr, results.metrics.attack
    selection = results.metrics.selection
    reach = float(student.ppf((1 + LEVEL) / 2, selection.targets - 1)) if selection else 0.0
    shadows = {
        row.name: Estimate(row.tpr, row.tpr - reach * row.std_error, row.tpr + reach * row.std_error)
        for row in (selection.results if selection else ())
        if row.tpr is not None and row.std_error is not None
    }
    public = {}
    if results.has_public_figures:
        measured = results.pool.public
        public = {
            name: tpr_band(scores[measured], results.members, [fpr])[0] for name, scores in results.scores.items()
        }
    ranked = shadows or public
    if not ranked:
        return Section("Attacks side by side", ("Left out: nothing tells how good any attack is.",))
    base = chosen if chosen in ranked else chosen.removesuffix("-aligned")
    order = sorted(ranked, key=lambda name: -ranked[name].value)
    drawn = order[:ATTACKS_DRAWN] + [name for name in order[ATTACKS_DRAWN:] if name == base]
    rows = [(_short(name), ranked[name]) for name in drawn]
    where = "shadows that play the target" if shadows else "the public samples"
    caption = (
        f"TPR at {100 * fpr:g} % false alarms on {where}, with 95 % intervals; the chosen attack in its own colour."
    )
    strong = drawn.index(base) if base in drawn else None
    plot = draw(
        "attacks",
        caption,
        lambda axes: paint_intervals(axes, rows, fpr, f"TPR at {100 * fpr:g} % FPR", strong=strong),
        height=0.7 + 0.16 * len(rows),
    )
    names = [*order, *(name for name in public if name not in ranked)]
    table = Table(
        ("attack", "shadows as targets", "public samples"),
        tuple((name, spell(shadows.get(name)), spell(public.get(name))) for name in names),
        strong=chosen if chosen in names else base,
        folded="All attacks with 95 % intervals",
    )
    return Section("Attacks side by side", _how_chosen(results), (plot,), (table,), wide=True)


def show_classes(results: Results) -> Section:
    """Figures by class, on the public samples."""
    title = "Class by class"
    fpr = results.metrics.fpr
    scores, labels = results.score[results.pool.public], results.pool.labels[results.pool.public]
    rows = []
    for label in np.unique(labels):
        chosen = labels == label
        members = results.members[chosen]
        if members.any() and fpr * (~members).sum() >= 1:
            rows.append((f"class {label}", tpr_band(scores[chosen], members, [fpr])[0]))
    if not rows:
        return Section(title, (f"Left out: no class has the {1 / fpr:.0f} public non-members that a figure needs.",))
    rows.sort(key=lambda row: -row[1].value)
    half = CLASSES_DRAWN // 2
    drawn = rows if len(rows) <= CLASSES_DRAWN else rows[:half] + rows[-half:]
    caption = (
        f"TPR at {100 * fpr:g} % false alarms within each class of the public samples, each by a threshold of its own"
        + ("" if drawn is rows else f"; the {half} highest and the {half} lowest of {len(rows)} classes")
        + ". Of 95 % intervals, one in twenty misses the true figure by chance."
    )
    plot = draw(
        "classes",
        caption,
        lambda axes: paint_intervals(axes, drawn, fpr, f"TPR at {100 * fpr:g} % FPR"),
        height=0.7 + 0.16 * len(drawn),
    )
    return Section(title, plots=(plot,))


def show_vulnerable(results: Results, images: np.ndarray | None, no_images: str) -> Section:
    """The samples with the highest and the lowest scores."""
    most, least = most_and_least_vulnerable(results, images)
    text = (
        "Each dash is a shadow's margin on the sample, more confident to the right: above, shadows trained on "
        "it (IN); below, shadows that were not (OUT). The long line is the target.",
    )
    if images is None:
        text += (f"Without pictures: {no_images}",)
    galleries = (
        ("Most vulnerable: called members with the highest scores", tuple(most)),
        ("Least vulnerable: called non-members with the lowest scores", tuple(least)),
    )
    files = ()
    if images is not None and most:
        rows = [("most vulnerable", most), ("least vulnerable", least)]
        files = (
            draw(
                "vulnerable", "Most and least vulnerable samples.", lambda axes: paint_gallery(axes, rows), height=2.6
            ),
        )
    return Section("Most and least vulnerable", text, galleries=galleries, files=files, wide=True)


def show_gain(results: Results, steps: Sequence[Step]) -> Section:
    """What more shadow models bring."""
    title = "What more shadow models bring"
    if results.attack is None:
        return Section(title, ("Left out: the attack is one of your own, and the report runs no code but its own.",))
    if not steps:
        return Section(title, ("Left out: there are too few shadows to let one play the target against four others.",))
    fpr = results.metrics.fpr
    curves: list[tuple[str, str, Sequence[Estimate | None]]] = [
        ("shadows as targets", OTHER, [mean_of(step.reached) for step in steps])
    ]
    if any(step.public for step in steps):
        curves.append(("public samples", OUT, [step.public for step in steps]))
    caption = (
        f"The chosen attack with fewer shadows, on {len(steps[-1].trials)} shadows that play the target (mean with its "
        "95 % interval) and on the public samples (with their 95 % interval, which is much the same chance at each "
        "step). Samples left without an IN or an OUT model are left out."
    )
    if results.metrics.selection:
        caption += " The attack was chosen with all models, so the last step flatters it a little."
    models = [step.models for step in steps]
    plot = draw("gain", caption, lambda axes: paint_gain(axes, models, curves, fpr, fpr))
    return Section(title, plots=(plot,))


def _known(results: Results) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(_known_by_name(results).values())


def _known_by_name(results: Results) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores and membership, both `[known]`, of public samples and of private ones with a truth."""
    known = {}
    if results.has_public_figures:
        known["public samples"] = results.score[results.pool.public], results.members
    if results.truth:
        known["private samples"] = results.truth.scores, results.truth.members
    return known


def _figures_table(results: Results) -> tuple[Table, ...]:
    known = {"public": results.metrics.public, "private": results.truth.figures if results.truth else None}
    columns = {name: figures for name, figures in known.items() if figures}
    if not columns:
        return ()
    tprs = [{entry.fpr: entry.resampled for entry in figures.tpr} for figures in columns.values()]
    rows = [("AUC (guessing: 0.5)", *(spell(figures.auc) for figures in columns.values()))]
    rows += [(f"TPR at {100 * fpr:g} % FPR", *(spell(column.get(fpr)) for column in tprs)) for fpr in tprs[0]]
    return (Table(("with 95 % intervals", *columns), tuple(rows)),)


def _accuracy_rows(results: Results) -> list[tuple[str, ...]]:
    if results.correct is None:
        return []
    correct, shadows = results.correct[results.pool.public], results.shadows
    rows = []
    for name, chosen, accuracy in (
        ("accuracy, members / IN", results.members, shadows.accuracy_in),
        ("accuracy, non-members / OUT", ~results.members, shadows.accuracy),
    ):
        recorded = accuracy[np.isfinite(accuracy)]
        if len(recorded):
            rows.append(_likeness_row(name, recorded, correct[chosen].mean()))
    return rows


def _likeness_row(name: str, shadows: np.ndarray, target: float) -> tuple[str, ...]:
    low, high = np.quantile(shadows, [0.025, 0.975])
    return name, f"{target:.3f}", f"{shadows.mean():.3f}", f"{low:.3f} to {high:.3f}"


def _how_chosen(results: Results) -> tuple[str, ...]:
    chosen, selection = results.metrics.attack, results.metrics.selection
    if selection is None:
        return (f"The attack {chosen} was named by hand. The others are for comparison only.",)
    text = (
        f"{chosen} was chosen on {selection.targets} shadows that play the target: the first of all attacks within one "
        "standard error of the best, simple ones before fusions. The public samples had no part in it; picking the "
        "best of their column now would report a figure on the data that chose it."
    )
    if chosen.endswith("-aligned"):
        text += " It then had the target's margins put on the shadows' scale, for the target is unlike its shadows."
    return (text,)


def _short(name: str) -> str:
    return name if len(name) <= 30 else name[:29] + "\u2026"


def _some(margins: np.ndarray) -> np.ndarray:
    """Evenly spaced ones, enough for a histogram."""
    return margins[:: -(-len(margins) // MARGINS_DRAWN) or 1]
