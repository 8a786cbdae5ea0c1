"""Compares the target with its shadows: accuracy, and quantiles of the logit margins."""

from dataclasses import dataclass

import numpy as np

from jaxmia.plots.panels import paint_likeness
from jaxmia.plots.style import IN, OUT, draw
from jaxmia.report.results import Results
from jaxmia.report.section import Section, Table
from jaxmia.runs.store import Chunk

SHADOWS_COMPARED = 128
TITLE = "Target compared with its shadows"
_LEVELS = np.linspace(0.01, 0.99, 99)


@dataclass(frozen=True)
class Compared:
    """A figure of the target, compared with that of its shadows.

    Attributes:
        name: Name of the figure.
        target: Its value for the target.
        shadows: Its values for the shadows, `[model]`.
    """

    name: str
    target: float
    shadows: np.ndarray

    @property
    def range(self) -> tuple[float, float]:
        """Range of 95 % of the shadows."""
        low, high = np.quantile(self.shadows, [0.025, 0.975])
        return float(low), float(high)

    @property
    def outside(self) -> bool:
        """Whether the target is outside the range of 95 % of the shadows."""
        low, high = self.range
        return not low <= self.target <= high


@dataclass(frozen=True)
class Comparison:
    """Quantiles of logit margins in nats, and the figures of the table.

    Attributes:
        inside: Quantiles of each shadow's margins on its IN samples, `[model, level]`.
        outside: The same on its OUT samples.
        members: Quantiles of the target's margins on public members, `[level]`.
        nonmembers: The same on public non-members.
        figures: Figures of target and shadows.
        first_fold: Whether only the first fold of an audit was compared.
    """

    inside: np.ndarray
    outside: np.ndarray
    members: np.ndarray
    nonmembers: np.ndarray
    figures: tuple[Compared, ...]
    first_fold: bool


def compare(results: Results) -> Comparison | str:
    """Compares the target with its shadows on the samples of the first fold, or says why this is impossible."""
    matrices = results.matrices
    if matrices is None:
        return "fused runs have no margins of their own"
    if not results.has_public_figures:
        return "this needs public members and public non-members"
    some = slice(None, None, -(-len(matrices.shadows.model) // SHADOWS_COMPARED))
    evidence = matrices.evidence.by_fold()[0]
    chosen = slice(None) if matrices.evidence.fold is None else matrices.evidence.fold == 0
    public = results.pool.public[chosen]
    phi, mask = evidence.shadows[some, 0], evidence.mask[some]
    margins = evidence.target[0][public]
    members = results.pool.membership[chosen][public] == 1
    if members.all() or not members.any():
        return "this needs public members and public non-members"

    def of_shadows(trained: np.ndarray) -> np.ndarray:
        rows = [np.quantile(own[chosen], _LEVELS) for own, chosen in zip(phi, trained, strict=True) if chosen.any()]
        return np.reshape(rows, (len(rows), len(_LEVELS))).astype(np.float64)

    inside, outside = of_shadows(mask), of_shadows(~mask)
    if not (len(inside) and len(outside)):
        return "every shadow was trained on all samples or on none"
    target = np.quantile(margins[members], _LEVELS), np.quantile(margins[~members], _LEVELS)
    figures = (
        *(_accuracies(results, matrices.shadows) if matrices.evidence.fold is None else ()),
        Compared("median margin, members / IN (nats)", target[0][49], inside[:, 49]),
        Compared("median margin, non-members / OUT (nats)", target[1][49], outside[:, 49]),
        Compared("99th percentile, members / IN (nats)", target[0][-1], inside[:, -1]),
    )
    return Comparison(inside, outside, *target, figures, first_fold=matrices.evidence.fold is not None)


def show_likeness(found: Comparison | str) -> Section:
    """Accuracy and margin quantiles of the target and its shadows, or why there are none."""
    if isinstance(found, str):
        return Section(TITLE, (f"Not shown: {found}.",))
    caption = (
        "Quantiles of the target's logit margins minus those of the mean shadow. At each percentile, the band contains "
        "95 % of the shadows; a target outside the band was probably trained by a different recipe."
        + (" Computed on the first fold." if found.first_fold else "")
    )
    sides = [
        (("shadows, IN", "target, members"), IN, "-", found.inside, found.members),
        (("shadows, OUT", "target, non-members"), OUT, "--", found.outside, found.nonmembers),
    ]
    plot = draw("likeness", caption, lambda axes: paint_likeness(axes, _LEVELS, sides))
    head = ("", "target", "mean of shadows", "95 % of shadows")
    return Section(TITLE, plots=(plot,), tables=(Table(head, tuple(map(_row, found.figures))),), wide=True)


def _accuracies(results: Results, shadows: Chunk) -> list[Compared]:
    if results.correct is None:
        return []
    correct = results.correct[results.pool.public]
    figures = []
    for name, chosen, accuracy in (
        ("accuracy, members / IN", results.members, shadows.accuracy_in),
        ("accuracy, non-members / OUT", ~results.members, shadows.accuracy),
    ):
        recorded = accuracy[np.isfinite(accuracy)]
        if len(recorded):
            figures.append(Compared(name, float(correct[chosen].mean()), recorded))
    return figures


def _row(figure: Compared) -> tuple[str, ...]:
    low, high = figure.range
    return figure.name, f"{figure.target:.3f}", f"{figure.shadows.mean():.3f}", f"{low:.3f} to {high:.3f}"
