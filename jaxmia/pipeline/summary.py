"""Summaries of a scored run: by sample, by class, and the estimate for the private samples."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.special import bdtr

from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.evaluation.intervals import LEVEL, next_target
from jaxmia.evaluation.metrics import FPRS, Figures, false_alarms, figures, figures_by_class
from jaxmia.evaluation.selection import Selection
from jaxmia.files import write_text
from jaxmia.runs.metrics import EpsilonBound, PrivateEstimate, SampleSummary

DELTA = 1e-5
"""The delta at which epsilon is bounded from below."""

UNFAIR = 0.001
"""P-value of the number of members below which a fair coin is ruled out, so that no bound on epsilon is given."""

MIN_GUESSES = 8
"""Smallest number of guesses at which epsilon is bounded, if there are more samples than twice as many: fewer guesses
hardly exclude chance."""

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")

MAX_VULNERABLE = 5
"""Largest number of most vulnerable samples that are listed."""


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
    numbers = {"score": score, **fits, **scores}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "label", "membership", "fixed", *numbers])
    membership = ["" if value == UNKNOWN else str(value) for value in pool.membership.tolist()]
    fixed = np.isnan(score).astype(int).tolist()
    columns = [map(_written, column.tolist()) for column in numbers.values()]
    ids, labels = map(_as_text, pool.ids.tolist()), pool.labels.tolist()
    writer.writerows(zip(ids, labels, membership, fixed, *columns, strict=True))
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


def epsilon_bound(pool: Pool, score: np.ndarray, *, matched: bool = False, tests: int = 1) -> EpsilonBound:
    """Computes a lower bound on the target's epsilon at `delta` from the public samples, with 95 % confidence.

    The bound is that of privacy auditing with one training run (Steinke, Nasr and Jagielski, 2023, arXiv 2305.08846),
    computed by jax-privacy for the half of the samples with the highest scores, for a quarter, an eighth and so on, all
    guessed to be members. The largest of these bounds counts; each is computed at a higher confidence, so that all hold
    jointly (Bonferroni). The bound does not depend on the order of the samples, and is valid if each of these samples
    was made a member independently with probability 1/2, whatever the fixed memberships, and if the scores do not
    depend on their membership labels.

    Args:
        pool: The scored samples, with membership.
        score: Membership scores, `[sample]`; higher means member.
        matched: Whether the recipe of the shadow models was selected with the public labels.
        tests: Number of bounds of which the largest is taken; each is computed at a higher confidence, so that all hold
            jointly with 95 % (Bonferroni).
    """
    inside, outside = score[pool.membership == 1], score[pool.membership == 0]
    if min(len(inside), len(outside)) < 2:
        return no_bound("there are fewer than two public members or non-members")
    if reason := unfair_coin(pool):
        return no_bound(reason)
    if matched:
        return no_bound(
            "`jaxmia match` selected the recipe by the public labels, and the bound holds only for scores that do not "
            "depend on them"
        )
    try:
        from jax_privacy import auditing  # pyright: ignore[reportMissingImports]
    except ImportError:
        return no_bound("jax-privacy is not installed; `pip install jax-privacy` adds it")
    auditor = auditing.CanaryScoreAuditor(inside, outside)
    strategies = [auditing.Explicit(threshold) for threshold in _thresholds(np.concatenate([inside, outside]))]
    significance = (1 - LEVEL) / (tests * len(strategies))
    lower = max(auditor.epsilon_one_run(significance, DELTA, threshold_strategy=one) for one in strategies)
    return EpsilonBound(lower=float(lower), delta=DELTA, confidence=LEVEL, reason=None)


def _thresholds(scores: np.ndarray) -> list[float]:
    """Scores above which a half, a quarter and so on of `scores`, `[sample]`, lie; no membership is looked at."""
    ordered = np.sort(scores)[::-1]
    guesses = [len(scores) // 2]
    while guesses[-1] // 2 >= MIN_GUESSES:
        guesses.append(guesses[-1] // 2)
    return [float(ordered[count - 1]) for count in guesses]


def unfair_coin(pool: Pool) -> str | None:
    """Why public members and non-members cannot have been drawn by a fair coin, which a bound on epsilon assumes."""
    members, public = int((pool.membership == 1).sum()), int(pool.public.sum())
    if 2 * bdtr(min(members, public - members), public, 0.5) >= UNFAIR:
        return None
    return (
        f"{members:,} of {public:,} public samples are members, and the bound assumes that a fair coin decided for "
        "each of them"
    )


def no_bound(reason: str) -> EpsilonBound:
    """The absence of a bound, with its reason."""
    return EpsilonBound(lower=None, delta=DELTA, confidence=LEVEL, reason=reason)


def _limits(fpr: float) -> tuple[float, ...]:
    return tuple(sorted({fpr, *FPRS}, reverse=True))


def _written(value: float) -> str:
    return "" if value != value else f"{value:.7g}"


def _as_text(name: str) -> str:
    """Puts an apostrophe before a name that a spreadsheet would read as a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) and not _NUMBER.fullmatch(name) else name


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
