"""Sections of the report with results, one function each."""

from collections.abc import Sequence

import numpy as np

from jaxmia.evaluation.intervals import Estimate, student_quantile
from jaxmia.evaluation.metrics import false_alarms
from jaxmia.plots.panels import paint_distributions, paint_gain, paint_intervals, paint_rocs
from jaxmia.plots.style import IN, OTHER, OUT, draw
from jaxmia.report.by_models import Step
from jaxmia.report.results import Results
from jaxmia.report.samples import are_pictures, notable_samples, paint_gallery
from jaxmia.report.section import Section, Table, format_estimate
from jaxmia.report.uncertainty import mean_of, tpr_band, tpr_curve
from jaxmia.runs.matrices import Matrices
from jaxmia.runs.metrics import part_name

ATTACKS_DRAWN = 12
ATTACKS_MEASURED = 256
"""Largest number of attacks measured on the public samples: each takes about 10 ms, and a run may hold thousands."""
CLASSES_DRAWN = 24
MARGINS_DRAWN = 200_000


def show_roc(results: Results, steps: Sequence[Step]) -> Section:
    """ROC curves on logarithmic axes, and a table of AUC and TPR at the usual FPRs."""
    title = "ROC curve"
    smallest = [int((~members).sum()) for _, members in _known(results)]
    smallest += [int((~trial.members).sum()) for trial in (steps[-1].trials if steps else ())]
    if not smallest:
        return Section(title, ("Not shown: no membership is known, and no shadow could serve as a pseudo-target.",))
    fprs = np.geomspace(1 / min(smallest), 1, 120)
    curves = []
    if steps:
        tprs = np.array([tpr_curve(trial.scores, trial.members, fprs) for trial in steps[-1].trials])
        curves.append(("pseudo-targets", OTHER, [mean_of(values) for values in tprs.T]))
    colours = {"public samples": OUT, "private samples": IN}
    curves += [(name, colours[name], tpr_band(*known, fprs)) for name, known in _known_by_name(results).items()]
    caption = (
        "ROC curves on logarithmic axes with pointwise 95 % intervals."
        + (" Pseudo-targets are shadow models attacked with the others." if steps else "")
        + " The dashed diagonal is guessing"
        + ("; the dotted line marks the configured false positive rate" if results.metrics.fpr >= fprs[0] else "")
        + ". The curves begin at the rate of one false positive."
    )
    plot = draw("roc", caption, lambda axes: paint_rocs(axes, fprs, curves, results.metrics.fpr))
    return Section(title, plots=(plot,), tables=_figures_table(results), wide=True)


def show_margins(results: Results, matrices: Matrices) -> Section:
    """Distributions of the logit margin."""
    phi, mask = matrices.shadows.phi[:, 0], matrices.shadows.mask
    margins = matrices.evidence.target[0][results.pool.public]
    caption = (
        "Logit margins of shadows on samples that they were trained on (IN) or not (OUT), and of the target on public "
        "members and non-members. Where IN and OUT overlap, no single threshold separates members from non-members; "
        "the attacks compare the target with the shadows sample by sample."
    )
    plot = draw(
        "margins",
        caption,
        lambda axes: paint_distributions(
            axes, _some(phi[mask]), _some(phi[~mask]), margins[results.members], margins[~results.members]
        ),
    )
    return Section("Distribution of logit margins", plots=(plot,))


def show_attacks(results: Results) -> Section:
    """Comparison of all attacks, with the submitted one highlighted."""
    title = "Comparison of attacks"
    fpr, chosen = results.metrics.fpr, results.metrics.attack
    selection = results.metrics.selection
    reach = student_quantile(selection.targets) if selection else 0.0
    shadows = {
        row.name: Estimate(row.tpr, row.tpr - reach * row.std_error, row.tpr + reach * row.std_error)
        for row in (selection.results if selection else ())
        if row.tpr is not None and row.std_error is not None
    }
    public = {}
    if results.has_public_figures and false_alarms(fpr, int((~results.members).sum())) >= 1:
        measured = results.pool.public
        compared = [name for name in dict.fromkeys((chosen, *shadows, *results.scores)) if name in results.scores]
        public = {
            name: tpr_band(results.scores[name][measured], results.members, [fpr])[0]
            for name in compared[:ATTACKS_MEASURED]
        }
    ranked = shadows or public
    if not ranked:
        return Section(title, (f"Not shown: no attack could be measured at a false positive rate of {100 * fpr:g} %.",))
    runs = {part_name(place): one.run for place, one in enumerate(results.metrics.fused, start=1)}
    measured = selection.measured if selection else chosen
    order = sorted(ranked, key=lambda name: -ranked[name].value)
    drawn = order[:ATTACKS_DRAWN] + [name for name in order[ATTACKS_DRAWN:] if name == measured]
    rows = [(_short(runs.get(name, name)), ranked[name]) for name in drawn]
    where = "pseudo-targets" if shadows else "the public samples"
    highlighted = "the submitted attack" if measured == chosen else f"{measured}, submitted in aligned form,"
    caption = f"TPR at {100 * fpr:g} % FPR on {where}, with 95 % intervals; {highlighted} is highlighted."
    if len(drawn) < len(order):
        caption += (
            f" Of {len(order)} attacks, the {ATTACKS_DRAWN} with the highest TPR and the highlighted one are drawn; "
            "the table has all."
        )
    strong = drawn.index(measured) if measured in drawn else None
    plot = draw(
        "attacks",
        caption,
        lambda axes: paint_intervals(axes, rows, fpr, f"TPR at {100 * fpr:g} % FPR", strong=strong),
        height=0.7 + 0.16 * len(rows),
    )
    names = dict.fromkeys((*order, chosen, *public))
    cells = {name: format_estimate(shadows.get(name)) for name in names}
    if measured != chosen:
        cells[chosen] = f"{cells[measured]} without alignment"
    table = Table(
        (f"attack, TPR at {100 * fpr:g} % FPR", "pseudo-targets", "public samples"),
        tuple((runs.get(name, name), cells[name], format_estimate(public.get(name))) for name in names),
        strong=chosen,
        folded="All attacks",
        name="attacks",
        caption=f"TPR at {100 * fpr:g} % FPR of all attacks, with 95 % intervals; the submitted one is in bold.",
    )
    text = _how_chosen(results)
    if public and (unmeasured := len(results.scores) - len(public)):
        text += (f"{unmeasured:,} of the {len(results.scores):,} attacks were not measured on the public samples.",)
    return Section(title, text, (plot,), (table,), wide=True)


def show_classes(results: Results) -> Section:
    """TPR within each class of the public samples."""
    title = "TPR by class"
    fpr = results.metrics.fpr
    scores, labels = results.score[results.pool.public], results.pool.labels[results.pool.public]
    rows, classes = [], np.unique(labels)
    for label in classes:
        chosen = labels == label
        members = results.members[chosen]
        if members.any() and false_alarms(fpr, int((~members).sum())) >= 1:
            rows.append((f"class {label}", tpr_band(scores[chosen], members, [fpr])[0]))
    required = f"{np.ceil(1 / fpr):.0f} public non-members"
    if not rows:
        return Section(title, (f"Not shown: no class has a public member and the required {required}.",))
    rows.sort(key=lambda row: -row[1].value)
    half = CLASSES_DRAWN // 2
    drawn = rows if len(rows) <= CLASSES_DRAWN else rows[:half] + rows[-half:]
    caption = (
        f"TPR at {100 * fpr:g} % FPR within each class of the public samples, with a threshold for each class"
        + ("" if drawn is rows else f"; the {half} highest and the {half} lowest of {len(rows)} classes")
        + ". One in twenty 95 % intervals is expected to miss the true value."
        + (
            ""
            if len(rows) == len(classes)
            else f" {len(classes) - len(rows)} of {len(classes)} classes are left out: "
            f"they have no public member or fewer than {required}, so that not one false positive is allowed."
        )
    )
    plot = draw(
        "classes",
        caption,
        lambda axes: paint_intervals(axes, drawn, fpr, f"TPR at {100 * fpr:g} % FPR"),
        height=0.7 + 0.16 * len(drawn),
    )
    return Section(title, plots=(plot,))


def show_samples(results: Results, images: np.ndarray | None, no_images: str) -> Section:
    """The most vulnerable samples, and those with the highest and the lowest scores."""
    title = "Samples that stand out"
    if results.metrics.guessing:
        return Section(title, (f"Not shown: {results.metrics.guessing}.",))
    if images is not None and not are_pictures(images):
        images, no_images = None, ""
    text = (
        (
            "The gap is the difference between the mean logit margins of shadows trained on the sample (IN) and of the "
            "others (OUT), in standard deviations; it does not depend on whether the sample is a member. Each tick is "
            "a shadow's margin, with confidence increasing to the right: IN above, OUT below. The long line is the "
            "target's margin.",
        )
        if results.matrices
        else ()
    )
    if images is None and no_images:
        text += (no_images,)
    galleries = {kind: tuple(samples) for kind, samples in notable_samples(results, images).items() if samples}
    files = ()
    if images is not None and galleries:
        rows = [(kind.partition(":")[0], samples) for kind, samples in galleries.items()]
        caption = "Most vulnerable samples, surest members and surest non-members."
        files = (draw("vulnerable", caption, lambda axes: paint_gallery(axes, rows), height=1.3 * len(rows)),)
    return Section(title, text, galleries=tuple(galleries.items()), files=files, wide=True)


def show_gain(results: Results, steps: Sequence[Step]) -> Section:
    """TPR by number of shadow models."""
    title = "TPR by number of shadow models"
    if results.attack is None:
        return Section(title, ("Not shown: the report does not run an attack of your own.",))
    if not steps:
        return Section(title, ("Not shown: this needs at least five shadows, a pseudo-target and four others.",))
    fpr = results.metrics.fpr
    fewest = min(int((~trial.members).sum()) for step in steps for trial in step.trials)
    if false_alarms(fpr, fewest) < 1:
        return Section(title, (f"Not shown: {100 * fpr:g} % of {fewest} non-members is less than one sample.",))
    curves: list[tuple[str, str, Sequence[Estimate | None]]] = [
        ("pseudo-targets", OTHER, [mean_of(step.tprs) for step in steps])
    ]
    if any(step.public for step in steps):
        curves.append(("public samples", OUT, [step.public for step in steps]))
    caption = (
        f"TPR of the attack with fewer shadows: mean over {len(steps[-1].trials)} pseudo-targets, and on the public "
        "samples, with 95 % intervals. All steps use the same public samples, so their intervals are not independent. "
        "Samples without IN or without OUT models are left out. The last step is all models but one, since a "
        "pseudo-target is a model that the others attack."
    )
    if results.metrics.selection:
        caption += " The attack was selected with all models, which slightly favours the last step."
    models = [step.models for step in steps]
    plot = draw("gain", caption, lambda axes: paint_gain(axes, models, curves, fpr, fpr))
    return Section(title, plots=(plot,))


def _known(results: Results) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(_known_by_name(results).values())


def _known_by_name(results: Results) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores and membership, both `[known]`, of public samples and of private ones whose truth is given."""
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
    rows = [("AUC (guessing: 0.5)", *(format_estimate(figures.auc) for figures in columns.values()))]
    rows += [(f"TPR at {100 * fpr:g} % FPR", *(format_estimate(column.get(fpr)) for column in tprs)) for fpr in tprs[0]]
    caption = f"AUC and TPR of {results.metrics.attack} on {' and '.join(columns)} samples, with 95 % intervals."
    return (Table(("metric (95 % interval)", *columns), tuple(rows), name="figures", caption=caption),)


def _how_chosen(results: Results) -> tuple[str, ...]:
    chosen, selection = results.metrics.attack, results.metrics.selection
    if results.metrics.fused:
        return (f"{chosen} is the mean rank of the {len(results.metrics.fused)} runs, with equal weights.",)
    if selection is None:
        return (f"{chosen} was named by the user; the other attacks are shown for comparison only.",)
    text = (
        f"{selection.candidate} was selected on {selection.targets} pseudo-targets: the simplest attack within one "
        "standard error of the best. The public samples were not used for this; picking the best attack in their "
        "column would bias its figure."
    )
    if selection.aligned:
        text += (
            f" The submitted attack is {chosen}: because the target is unlike its shadows, its logit margins were "
            "first aligned with theirs. The expected TPR was measured without this alignment."
        )
    return (text,)


def _short(name: str) -> str:
    return name if len(name) <= 30 else name[:29] + "\u2026"


def _some(margins: np.ndarray) -> np.ndarray:
    """Evenly spaced subset of the margins, enough for a histogram."""
    return margins[:: -(-len(margins) // MARGINS_DRAWN) or 1]
