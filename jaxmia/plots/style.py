"""Style of figures, for papers and for the report in light and dark mode."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from jaxmia.files import atomic_write

# The palette of Okabe and Ito, which is distinguishable with colour blindness.
INK = "#1b1f24"
GRID = "#d8dee4"
IN = "#d55e00"
OUT = "#0072b2"
OTHER = "#009e73"

_ON_PAGE = {INK: "currentColor", GRID: "var(--line)", IN: "var(--in)", OUT: "var(--out)", OTHER: "var(--other)"}
"""Colours of the report, which follow its light or dark mode."""

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.prop_cycle": "cycler('color', ['#1b1f24'])",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 8,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "legend.borderaxespad": 0.2,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,  # conferences refuse Type 3 fonts
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
WIDTH = 3.4
HEIGHT = 2.5
_PADDING = 0.03
_DPI = 300


@dataclass(frozen=True)
class Plot:
    """A drawn figure, to be shown in the report and saved for papers.

    Attributes:
        name: Name of its files, without extension.
        caption: Description of what the figure shows.
        figure: Matplotlib figure.
    """

    name: str
    caption: str
    figure: Figure

    @property
    def svg(self) -> Markup:
        """The figure as a self-contained `svg` element that uses the page's colours and fonts."""
        return _to_svg(self.figure, self.name, self.caption)

    def save(self, folder: Path, *, paper: bool) -> None:
        """Writes the figure as PNG and, with `paper`, also as PDF."""
        for form in ("png", "pdf") if paper else ("png",):
            content = _to_bytes(self.figure, form)
            with atomic_write(folder / f"{self.name}.{form}") as file:
                file.write(content)


def draw(name: str, caption: str, paint: Callable[[Axes], None], *, height: float = HEIGHT) -> Plot:
    """Draws a figure one column wide.

    Args:
        name: Name of its files, without extension.
        caption: Description of what the figure shows.
        paint: Function that draws into the given axes.
        height: Height in inches.
    """
    with _styled():
        figure = Figure(figsize=(WIDTH, height))
        paint(figure.add_subplot())
        # Once for all formats: a figure that has a layout engine is drawn twice and laid out anew for each.
        ConstrainedLayoutEngine(h_pad=_PADDING, w_pad=_PADDING).execute(figure)
    return Plot(name, caption, figure)


@contextmanager
def _styled() -> Iterator[None]:
    """Applies this style alone; a `matplotlibrc` of the user or the working directory could run LaTeX."""
    with rc_context():
        rcdefaults()
        rcParams.update(_STYLE)
        yield


def _to_bytes(figure: Figure, form: str, style: Any = None) -> bytes:
    buffer = io.BytesIO()
    # without the creation date, equal results give equal files
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with _styled(), rc_context(style):
        figure.savefig(buffer, format=form, dpi=_DPI, transparent=form == "svg", metadata=undated.get(form))
    return buffer.getvalue()


def _to_svg(figure: Figure, name: str, caption: str) -> Markup:
    # the salt keeps the ids of one figure distinct from those of others on the same page
    text = _to_bytes(figure, "svg", {"svg.hashsalt": name}).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # ids of artists, the same in every figure; nothing refers to them
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for colour, own in _ON_PAGE.items():
        text = text.replace(colour, own)
    box = re.search(r'viewBox="[^"]*"', text)
    opening = Markup('<svg {} role="img" aria-label="{}">').format(Markup(box[0] if box else ""), caption)
    return opening + Markup(text[text.index(">") + 1 :].replace("xlink:href", "href"))
