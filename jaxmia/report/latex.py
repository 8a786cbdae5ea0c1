"""Tables of the report in LaTeX, for papers."""

from collections.abc import Iterable, Sequence

from jaxmia.report.section import Table
from jaxmia.report.subject import describe_epsilon
from jaxmia.report.verdict import Verdict
from jaxmia.runs.metrics import RunMetrics

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{letter: "\\" + letter for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def latex_tables(metrics: RunMetrics, verdict: Verdict, tables: Sequence[Table]) -> str:
    r"""Formats the verdict's figures and other tables as LaTeX for `\input`; needs the package booktabs."""
    floats = [(_answer(metrics, verdict), r"lrrp{0.4\linewidth}")]
    floats += [(table, "l" + "r" * (len(table.head) - 1)) for table in tables]
    return "% \\usepackage{booktabs}\n" + "\n".join(_float(table, columns) for table, columns in floats if table.rows)


def _answer(metrics: RunMetrics, verdict: Verdict) -> Table:
    """The verdict's figures, with the bound on epsilon in the caption, if there is one."""
    tpr = f"TPR at {100 * metrics.fpr:g} % FPR"
    caption = f"{tpr} of {metrics.attack}, with 95 % intervals."
    if metrics.epsilon.lower is not None:
        caption += f" The target's epsilon is {describe_epsilon(metrics.epsilon)}."
    rows = tuple(
        (
            figure.name,
            f"{figure.estimate.value:.3f}",
            f"{figure.estimate.low:.3f} to {figure.estimate.high:.3f}",
            figure.basis,
        )
        for figure in verdict.figures
    )
    return Table(("", tpr, "95 % interval", "measured on"), rows, name="verdict", caption=caption)


def _float(table: Table, columns: str) -> str:
    body = [
        _row(r"\textbf{" + _escape(cell) + "}" if cells[0] == table.strong else _escape(cell) for cell in cells)
        for cells in table.rows
    ]
    lines = [
        r"\begin{table}",
        r"\centering\small",
        r"\caption{" + _escape(table.caption) + "}",
        r"\label{tab:" + table.name + "}",
        r"\begin{tabular}{" + columns + "}",
        r"\toprule",
        _row(map(_escape, table.head)),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escape(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
