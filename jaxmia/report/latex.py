"""Tables of the report in LaTeX, for papers."""

from collections.abc import Iterable, Sequence

from jaxmia.report.section import Table
from jaxmia.report.verdict import Verdict

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{letter: "\\" + letter for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def latex_tables(verdict: Verdict, tables: Sequence[Table]) -> str:
    r"""Formats the verdict's figures and other tables as LaTeX for `\input`; needs the package booktabs."""
    answer = Table(
        ("", "TPR", "95 % interval", "measured on"),
        tuple(
            (
                figure.name,
                f"{figure.estimate.value:.3f}",
                f"{figure.estimate.low:.3f} to {figure.estimate.high:.3f}",
                figure.basis,
            )
            for figure in verdict.figures
        ),
    )
    return "% \\usepackage{booktabs}\n" + "\n".join(_tabular(table) for table in (answer, *tables) if table.rows)


def _tabular(table: Table) -> str:
    body = [
        _row(r"\textbf{" + _escape(cell) + "}" if cells[0] == table.strong else _escape(cell) for cell in cells)
        for cells in table.rows
    ]
    lines = [
        r"\begin{tabular}{l" + "r" * (len(table.head) - 1) + "}",
        r"\toprule",
        _row(map(_escape, table.head)),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escape(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
