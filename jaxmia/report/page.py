"""The HTML report of a run, and its figures for papers."""

import logging
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from jaxmia._version import __version__
from jaxmia.errors import InputError
from jaxmia.files import write_text
from jaxmia.report.by_models import Step, tpr_by_models
from jaxmia.report.latex import latex_tables
from jaxmia.report.likeness import Comparison, compare, show_likeness
from jaxmia.report.origin import show_provenance, show_throughput, show_training
from jaxmia.report.results import Results, read_results
from jaxmia.report.section import Section
from jaxmia.report.sections import (
    show_attacks,
    show_classes,
    show_gain,
    show_margins,
    show_roc,
    show_samples,
)
from jaxmia.report.subject import describe_subject
from jaxmia.report.verdict import reach_verdict
from jaxmia.runs.rundir import RunDir

logger = logging.getLogger(__name__)


NO_IMAGES = "The run directory has no images; jaxmia report shows them if it finds the files of the challenge."


def _keep_together(value: Any) -> Any:
    """Joins a number and its percent sign, and the ends of an interval, with non-breaking spaces, but in markup."""
    if type(value) is not str:
        return value
    value = re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", value)
    return re.sub(r"(?<=\d) to (?=-?\d+\.\d)", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}", value)


_templates = Environment(
    loader=PackageLoader("jaxmia.report", "."),
    autoescape=True,
    finalize=_keep_together,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_report(
    out: Path,
    *,
    truth: Path | None = None,
    images: np.ndarray | None = None,
    no_images: str = NO_IMAGES,
    paper: bool = False,
) -> Path:
    """Writes `report.html` and `figures/*.png` of a scored run.

    The page is self-contained and needs no network. A section whose data the run directory lacks is replaced by a line
    that says so; `pool.npz`, `target.npz`, `shadows/*.npz`, `scores.npz` and `metrics.json` are enough.

    Args:
        out: Run directory with the results of `jaxmia.pipeline.scoring.score`.
        truth: CSV of `id,membership` with the true memberships of private samples, if known.
        images: Images of the pool, uint8 or float in [0, 1], `[sample, height, width, channel]`.
        no_images: Sentence that explains why there are no images.
        paper: Whether to write the figures as PDF too, and `figures/tables.tex`.

    Returns:
        Path of the page.

    Raises:
        InputError: A file is missing, damaged, or inconsistent with the others, or the number of images is wrong.
    """
    results = read_results(out, truth)
    if images is not None and len(images) != len(results.free):
        raise InputError(f"images: got {len(images)}, but {RunDir(out).pool} has {len(results.free)} samples")
    images = None if images is None else images[results.free]
    _warn_of_other_models(results)
    comparison = compare(results)
    verdict = reach_verdict(results, comparison if isinstance(comparison, Comparison) else None)
    sections = _fill_rows(_sections(results, comparison, images, no_images))
    folder = RunDir(out).figures
    plots = [plot for section in sections for plot in (*section.plots, *section.files)]
    for plot in (*((verdict.plot,) if verdict.plot else ()), *plots):
        plot.save(folder, paper=paper)
    if paper:
        tables = [table for section in sections[:2] for table in section.tables]
        write_text(RunDir(out).tables, latex_tables(results.metrics, verdict, tables))
    page = RunDir(out).report
    html = _templates.get_template("page.html.jinja").render(
        subject=describe_subject(results),
        verdict=verdict,
        sections=sections,
        fpr=results.metrics.fpr,
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_text(page, html)
    figures = f"figures in {folder}" + (f" (PNG and PDF), tables in {RunDir(out).tables}" if paper else "")
    logger.info(f"report: {page}, {figures}")
    return page


def _warn_of_other_models(results: Results) -> None:
    stored = len(results.matrices.shadows.model) if results.matrices else 0
    if stored and stored != results.metrics.models:
        logger.warning(
            f"report: the scores are of {results.metrics.models} models, but {stored} are stored; `jaxmia score` with "
            "the same --out scores again"
        )


def _sections(
    results: Results, comparison: Comparison | str, images: np.ndarray | None, no_images: str
) -> list[Section]:
    """Sections of the page; fused runs have no models of their own and so no sections on models."""
    steps = _steps(results)
    found = [show_roc(results, steps), show_attacks(results)]
    classes, samples = show_classes(results), show_samples(results, images, no_images)
    if results.matrices is None:
        return [*found, classes, samples, show_provenance(results)]
    return [
        *found,
        show_gain(results, steps),
        classes,
        show_margins(results, results.matrices),
        show_likeness(comparison),
        samples,
        show_training(results.matrices),
        show_throughput(results),
        show_provenance(results),
    ]


def _fill_rows(sections: list[Section]) -> list[Section]:
    """Widens narrow sections that would stand alone in a row of two."""
    filled, waiting = [], False
    for section, following in zip(sections, [*sections[1:], None], strict=False):
        waiting = not (section.wide or waiting)
        alone = waiting and (following is None or following.wide)
        filled.append(replace(section, wide=True) if alone else section)
        waiting = waiting and not alone
    return filled


def _steps(results: Results) -> list[Step]:
    if results.matrices is None or results.attack is None:
        return []
    return tpr_by_models(
        results.matrices.pseudo_target_evidence, results.attack, results.pool.membership, results.metrics.fpr
    )
