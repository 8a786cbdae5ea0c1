"""How figures look, on paper and on the page, in light and dark."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxmia.files import atomic_write

# Okabe and Ito's, which the colour-blind can tell apart.
INK = "#1b1f24"
GRID = "#d8dee4"
IN = "#d55e00"
OUT = "#0072b2"
OTHER = "#009e73"

_ON_PAGE = {INK: "currentColor", GRID: "var(--line)", IN: "var(--in)", OUT: "var(--out)", OTHER: "var(--other)"}
"""The page's own colours, which follow its light or dark."""

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.prop_cycle": "cycler('color', ['#1b1f24'])",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.03,
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
_DPI = 300


@dataclass(frozen=True)
class Plot:
    """A figure that is drawn, to be shown on the page and saved for papers.

    Attributes:
        name: Of its files.
        caption: What one sees, in words.
        figure: As drawn.
    """

    name: str
    caption: str
    figure: Figure

    @property
    def svg(self) -> Markup:
        """An `svg` element that takes the page's colours and fonts, and refers to nothing outside of it."""
        return _to_svg(self.figure, self.name, self.caption)

    def save(self, folder: Path, *, paper: bool) -> None:
        """Writes a PNG, and for a paper a PDF."""
        for form in ("png", "pdf") if paper else ("png",):
            content = _to_bytes(self.figure, form)
            with atomic_write(folder / f"{self.name}.{form}") as file:
                file.write(content)


def draw(name: str, caption: str, paint: Callable[[Axes], None], *, height: float = HEIGHT) -> Plot:
    """Draws a figure of one column's width.

    Args:
        name: Of its files.
        caption: What one sees, in words.
        paint: Draws into the axes it is given.
        height: In inches.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height))
        paint(figure.add_subplot())
    return Plot(name, caption, figure)


def _to_bytes(figure: Figure, form: str, style: Any = None) -> bytes:
    buffer = io.BytesIO()
    # without the time of drawing, equal results are equal files
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with rc_context(_STYLE), rc_context(style):
        figure.savefig(buffer, format=form, dpi=_DPI, transparent=form == "svg", metadata=undated.get(form))
    return buffer.getvalue()


def _to_svg(figure: Figure, name: str, caption: str) -> Markup:
    # the salt keeps what one figure refers to apart from what others do on the same page
    text = _to_bytes(figure, "svg", {"svg.hashsalt": name}).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # names of artists, the same in each figure; nothing refers to them
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for colour, own in _ON_PAGE.items():
        text = text.replace(colour, own)
    box = re.search(r'viewBox="[^"]*"', text)
    opening = Markup('<svg {} role="img" aria-label="{}">').format(Markup(box[0] if box else ""), caption)
    return opening + Markup(text[text.index(">") + 1 :].replace("xlink:href", "href"))
