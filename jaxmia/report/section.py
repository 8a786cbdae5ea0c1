"""What the page is made of."""

from dataclasses import dataclass
from typing import Protocol

from jaxmia.plots.style import Plot
from jaxmia.report.vulnerable import VulnerableSample


class HasInterval(Protocol):
    """A figure and the ends of its 95 % interval."""

    @property
    def value(self) -> float:
        """The figure."""
        ...

    @property
    def low(self) -> float:
        """Lower end."""
        ...

    @property
    def high(self) -> float:
        """Upper end."""
        ...


@dataclass(frozen=True)
class Table:
    """Rows of text below a head; the first column is words, the others are figures.

    Attributes:
        head: Names of the columns.
        rows: Cells.
        strong: First cell of the row that stands out.
        folded: What to click on to see it; it is open where this is empty.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: str = ""
    folded: str = ""


@dataclass(frozen=True)
class Section:
    """A question and its answer.

    Attributes:
        title: The question.
        text: Paragraphs; where the data are missing, the reason.
        plots: Figures.
        tables: Tables.
        galleries: Titles and samples.
        files: Figures for papers that the page shows in another way.
        wide: Whether it takes the whole width of a large screen.
    """

    title: str
    text: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    galleries: tuple[tuple[str, tuple[VulnerableSample, ...]], ...] = ()
    files: tuple[Plot, ...] = ()
    wide: bool = False


def spell(estimate: HasInterval | None) -> str:
    """A figure with its interval, or that there is none."""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})" if estimate else "not measured"
