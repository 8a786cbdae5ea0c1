"""Hooks of mkdocs that add pictures, formulas and results to the pages, without network access."""

import json
import re
from io import BytesIO
from pathlib import Path

import latex2mathml.converter
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from jaxmia.evaluation.metrics import tpr_at_fpr

mpl.use("agg")

RESULTS = Path(__file__).parents[1] / "benchmarks/results"
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pictures, and all files of `benchmarks/results` that a page can show."""
    for name, draw in PICTURES.items():
        files.append(File.generated(config, f"pictures/{name}.svg", content=_svg(draw)))
    for path in sorted(RESULTS.glob("*")):
        if path.suffix in (".md", ".svg", ".png"):
            files.append(File.generated(config, f"results/{path.name}", content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Inserts the list of results, and converts formulas to MathML."""
    about_attacks = page.title == "Attacks"
    found = sorted(
        path for path in RESULTS.glob("*.md") if path.name.startswith(("attacks", "strength", "study")) == about_attacks
    )
    listed = "\n".join(f"- [{_title(path)}](results/{path.name})" for path in found) or "Nothing yet."
    markdown = markdown.replace("<!-- results -->", listed)
    parts = _CODE.split(markdown)
    return "".join(part if index % 2 else _FORMULA.sub(_mathml, part) for index, part in enumerate(parts))


def _title(path: Path) -> str:
    return path.read_text().partition("\n")[0].lstrip("# ")


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match[1] else "inline"
    return latex2mathml.converter.convert((match[1] or match[2]).strip(), display=display)


def _svg(draw) -> bytes:
    buffer = BytesIO()
    with mpl.rc_context(
        {"svg.hashsalt": "jaxmia", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(7, 2.8), layout="constrained")
        draw(figure, np.random.default_rng(0))
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _margins(figure: Figure, rng: np.random.Generator) -> None:
    samples = (("an easy sample", 7.0, 6.2, 1.0, 7.4), ("a hard sample", 2.5, -1.0, 1.0, 2.2))
    for axes, (title, inside, outside, spread, target) in zip(figure.subplots(1, 2, sharex=True), samples, strict=True):
        bins = np.linspace(-5, 11, 49)
        axes.hist(rng.normal(outside, spread, 400), bins, alpha=0.6, label="OUT")
        axes.hist(rng.normal(inside, spread, 400), bins, alpha=0.6, label="IN")
        axes.axvline(target, color="black", linestyle="--", label="target")
        axes.set(title=title, xlabel="logit margin (nats)", yticks=[])
    axes.legend(frameon=False)


def _variance(figure: Figure, rng: np.random.Generator) -> None:
    true = rng.gamma(6, 0.2, 200) + 0.2
    for axes, models in zip(figure.subplots(1, 2, sharex=True, sharey=True), (8, 128), strict=True):
        margins = rng.normal(0, true, (models // 2, len(true)))
        axes.plot(true, margins.std(0, ddof=1), ".", label="per-example")
        axes.axhline(np.sqrt(margins.var(0, ddof=1).mean()), color="C1", label="global")
        axes.plot([0.2, 3], [0.2, 3], color="gray", linewidth=0.8)
        axes.set(title=f"{models} models", xlabel="true spread (nats)")
    axes.legend(frameon=False)
    figure.axes[0].set_ylabel("estimate (nats)")


def _selection(figure: Figure, rng: np.random.Generator) -> None:
    rounds = 6
    axes = figure.subplots()
    role = np.zeros((rounds, rounds + 4))
    role[np.arange(rounds), np.arange(rounds)] = 1
    axes.imshow(role, cmap="Blues", vmin=-0.3, vmax=1.3, aspect="auto")
    for row, column in np.ndindex(role.shape):
        axes.text(column, row, "target" if role[row, column] else "shadow", ha="center", va="center", fontsize=8)
    axes.set(xlabel="shadow model", ylabel="round", xticks=[], yticks=[])


def _noise(figure: Figure, rng: np.random.Generator) -> None:
    axes = figure.subplots()
    members = np.arange(1400) < 700
    reached = [tpr_at_fpr(rng.normal(0.3 * members, 1), members, 0.05) for _ in range(40)]
    axes.hist(reached, bins=16)
    axes.set(xlabel="TPR at 5 % FPR", ylabel="draws")


def _strength(figure: Figure, rng: np.random.Generator) -> None:
    """TPR of `auto` and of published attacks by the number of shadows, with the standard error over replicas."""
    del rng
    cases = json.loads((RESULTS / "strength_cpu.json").read_text())["cases"]
    for number, (axes, case) in enumerate(zip(figure.subplots(1, len(cases)), cases, strict=True)):
        sizes = np.array([int(size) for size in case["sizes"]])
        for shift, name in enumerate(("auto", "LiRA as published", "RMIA as published", "loss")):
            found = np.array([cell["replicas"][name]["tpr@0.05"] for cell in case["sizes"].values()])
            errors = found.std(1, ddof=1) / np.sqrt(found.shape[1])
            axes.errorbar(sizes * 1.03**shift, found.mean(1), errors, marker=".", label=name)
        axes.set_xscale("log", base=2)
        axes.set(title=f"target {number}", xlabel="shadows", xticks=sizes, xticklabels=sizes, ylim=(0, None))
    figure.axes[0].set_ylabel("TPR at 5 % FPR")
    figure.axes[-1].legend(frameon=False, fontsize=7, labelspacing=0.2, loc="lower right")


PICTURES = {
    "margins": _margins,
    "variance": _variance,
    "selection": _selection,
    "noise": _noise,
    "strength": _strength,
}
