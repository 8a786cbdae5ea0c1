"""Summaries of a scored run: by sample, by class, and the estimate for the private samples."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.evaluation.intervals import next_target
from jaxmia.evaluation.metrics import FPRS, Figures, false_alarms, figures, figures_by_class
from jaxmia.evaluation.selection import Selection
from jaxmia.files import write_text
from jaxmia.runs.metrics import PrivateEstimate, SampleSummary

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")

MAX_VULNERABLE = 5
"""Largest number of most vulnerable samples that are listed."""


def sample_table(pool: Pool, score: np.ndarray, fits: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns with one entry per sample: `id`, `label`, `membership`, `fixed`, `score`, then the fits.

    Args:
        pool: Pool with ids, labels and membership.
        score: Scores of the attack, `[sample]`; NaN where the membership is fixed in all shadow models.
        fits: Statistics of each sample from `jaxmia.attacks.sample_fits`, `[sample]` each.
    """
    known = {"id": pool.ids, "label": pool.labels, "membership": pool.membership, "fixed": np.isnan(score)}
    return {**known, "score": score, **fits}


def write_samples(
    path: Path, pool: Pool, score: np.ndarray, fits: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray]
) -> None:
    """Writes a CSV with one row per sample: `id,label,membership,fixed,score`, the fits, then every attack's score.

    Membership is 1, 0, or empty if it is unknown; `fixed` is 1 if the membership is fixed in all shadow models, so that
    the sample has no score, else 0. Numbers have seven significant digits (`scores.npz` has full precision); undefined
    ones, such as the mean over no models, are empty.

    Args:
        path: Path of the CSV, which is written atomically.
        pool: Pool with ids, labels and membership.
        score: Scores of the submitted attack, `[sample]`; NaN where the membership is fixed.
        fits: Statistics of each sample from `jaxmia.attacks.sample_fits`, `[sample]` each.
        scores: Scores of each attack by name, `[sample]` each.

    Raises:
        InputError: An id cannot be written as UTF-8, or the file cannot be written.
    """
    columns = {**sample_table(pool, score, fits), **scores}
    written = {
        "id": _as_text,
        "label": str,
        "membership": lambda value: "" if value == UNKNOWN else str(value),
        "fixed": lambda value: str(int(value)),
    }
    cells = [map(written.get(name, _written), column.tolist()) for name, column in columns.items()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*cells, strict=True))
    write_text(path, text.getvalue())


def most_vulnerable(pool: Pool, score: np.ndarray, fits: Mapping[str, np.ndarray]) -> tuple[SampleSummary, ...]:
    """Lists the samples with the widest gaps between IN and OUT margins, widest first, whatever their membership.

    Args:
        pool: Pool with ids, labels and membership.
        score: Scores of the chosen attack, `[sample]`.
        fits: Statistics of each sample from `jaxmia.attacks.sample_fits`, `[sample]` each.
    """
    return tuple(
        SampleSummary.model_validate(
            {
                "id": str(pool.ids[sample]),
                "label": int(pool.labels[sample]),
                "membership": None if pool.membership[sample] == UNKNOWN else int(pool.membership[sample]),
                **{name: _plain(column[sample].item()) for name, column in {"score": score, **fits}.items()},
            }
        )
        for sample in np.argsort(-fits["gap"], kind="stable")[:MAX_VULNERABLE]
        if not np.isnan(fits["gap"][sample])
    )


def public_figures(pool: Pool, score: np.ndarray, fpr: float) -> Figures | None:
    """Figures on the public samples at `fpr` and the usual FPRs; None without both public members and non-members."""
    members = pool.membership[pool.public] == 1
    if members.all() or not members.any():
        return None
    return figures(score[pool.public], members, _limits(fpr))


def figures_of_classes(pool: Pool, score: np.ndarray, fpr: float) -> dict[str, Figures | None]:
    """Figures on the public samples of each class by label, each at its own threshold; None as in `public_figures`."""
    public = pool.public
    found = figures_by_class(score[public], pool.membership[public] == 1, pool.labels[public], _limits(fpr))
    return {str(label): entry for label, entry in found.items()}


def private_estimate(pool: Pool, selection: Selection) -> PrivateEstimate | None:
    """Estimates the TPR on the private samples, with its 95 % prediction interval.

    The estimate is the TPR against one more shadow model as the target, on as many samples. It therefore assumes that
    the target was trained as the shadow models were. It is None if half of the private samples, taken as
    non-members, are too few for a single false positive.
    """
    private = int((~pool.public).sum())
    if false_alarms(selection.fpr, private // 2) < 1:
        return None
    spread = selection.expected_error * np.sqrt(selection.targets)
    found = next_target(selection.expected, spread, selection.targets, private / len(pool))
    return PrivateEstimate(
        fpr=selection.fpr,
        samples=private,
        targets=selection.targets,
        value=found.value,
        low=found.low,
        high=found.high,
    )


def _limits(fpr: float) -> tuple[float, ...]:
    return tuple(sorted({fpr, *FPRS}, reverse=True))


def _written(value: float) -> str:
    return "" if value != value else f"{value:.7g}"


def _as_text(name: str) -> str:
    """Puts an apostrophe before a name that a spreadsheet would read as a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) and not _NUMBER.fullmatch(name) else name


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
