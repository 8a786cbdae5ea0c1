"""Building blocks of the report page."""

from dataclasses import dataclass
from typing import Protocol

from jaxmia.plots.style import Plot
from jaxmia.report.samples import ShownSample


class HasInterval(Protocol):
    """An estimate with its 95 % interval."""

    @property
    def value(self) -> float:
        """The estimate."""
        ...

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        ...

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        ...


@dataclass(frozen=True)
class Table:
    """A table whose first column holds text and whose others hold numbers.

    Attributes:
        head: Names of the columns.
        rows: Cells of each row.
        strong: First cell of the row to highlight.
        folded: Label that unfolds the table; if empty, the table is always shown.
        name: What the table is referred to by in papers, as `tab:name`.
        caption: Caption of the table in papers.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: str = ""
    folded: str = ""
    name: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        title: Heading.
        text: Paragraphs; if the section cannot be shown, the reason.
        plots: Plots with captions.
        tables: Tables.
        galleries: Titles and samples of galleries.
        files: Plots that are only saved for papers, because the page shows their content differently.
        wide: Whether the section takes the full width of a large screen.
    """

    title: str
    text: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    galleries: tuple[tuple[str, tuple[ShownSample, ...]], ...] = ()
    files: tuple[Plot, ...] = ()
    wide: bool = False


def format_estimate(estimate: HasInterval | None) -> str:
    """Formats an estimate with its interval, or says that it was not measured."""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})" if estimate else "not measured"
