"""Lower bound on the epsilon of the target's training, by privacy auditing with one training run."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer, Real
from scipy.special import bdtr

UNFAIR = 0.001
"""P-value of the number of members below which a fair coin is ruled out, so that no bound on epsilon is given."""

MIN_GUESSES = 8
"""Smallest number of guesses at which epsilon is bounded, if there are more samples than twice as many: fewer guesses
hardly exclude chance."""


@dataclass(frozen=True)
class EpsilonBound:
    """Lower bound on the epsilon of the target's training, or the reason why there is none.

    Attributes:
        lower: The bound; None if there is none.
        delta: The delta at which epsilon is bounded.
        confidence: Confidence of the bound.
        reason: Reason why there is none.
    """

    lower: float | None
    delta: float
    confidence: float
    reason: str | None


def epsilon_bound(
    score: Real[np.ndarray, " sample"],
    membership: Integer[np.ndarray, " sample"],
    delta: float,
    confidence: float,
    *,
    matched: bool = False,
    tests: int = 1,
) -> EpsilonBound:
    """Computes a lower bound on the target's epsilon at `delta` from the public samples.

    The bound is that of privacy auditing with one training run (Steinke, Nasr and Jagielski, 2023, arXiv 2305.08846),
    computed by jax-privacy for the half of the samples with the highest scores, for a quarter, an eighth and so on, all
    guessed to be members. The largest of these bounds counts; each is computed at a higher confidence, so that all hold
    jointly (Bonferroni). The bound does not depend on the order of the samples, and is valid if each of these samples
    was made a member independently with probability 1/2, whatever the fixed memberships, and if the scores do not
    depend on their membership labels.

    Args:
        score: Membership scores; higher means member.
        membership: 1 for members, 0 for non-members, -1 for private samples, which are not used.
        delta: The delta at which epsilon is bounded, in (0, 1).
        confidence: Confidence of the bound, in (0, 1).
        matched: Whether the recipe of the shadow models was selected with the public labels.
        tests: Number of bounds of which the largest is taken; each is computed at a higher confidence, so that all hold
            jointly (Bonferroni).
    """
    if reason := _why_none(membership, matched):
        return EpsilonBound(None, delta, confidence, reason)
    try:
        from jax_privacy import auditing  # pyright: ignore[reportMissingImports]
    except ImportError:
        reason = "jax-privacy is not installed; `pip install jax-privacy` adds it"
        return EpsilonBound(None, delta, confidence, reason)
    auditor = auditing.CanaryScoreAuditor(score[membership == 1], score[membership == 0])
    strategies = [auditing.Explicit(threshold) for threshold in _thresholds(score[membership >= 0])]
    significance = (1 - confidence) / (tests * len(strategies))
    lower = max(auditor.epsilon_one_run(significance, delta, threshold_strategy=one) for one in strategies)
    return EpsilonBound(float(lower), delta, confidence, None)


def unfair_coin(membership: Integer[np.ndarray, " sample"]) -> str | None:
    """Why public members and non-members cannot have been drawn by a fair coin, which a bound on epsilon assumes.

    Args:
        membership: 1 for members, 0 for non-members, -1 for private samples.
    """
    members, public = int((membership == 1).sum()), int((membership >= 0).sum())
    if 2 * bdtr(min(members, public - members), public, 0.5) >= UNFAIR:
        return None
    return (
        f"{members:,} of {public:,} public samples are members, and the bound assumes that a fair coin decided for "
        "each of them"
    )


def _why_none(membership: Integer[np.ndarray, " sample"], matched: bool) -> str | None:
    if min((membership == 1).sum(), (membership == 0).sum()) < 2:
        return "there are fewer than two public members or non-members"
    if reason := unfair_coin(membership):
        return reason
    if matched:
        return (
            "`jaxmia match` selected the recipe by the public labels, and the bound holds only for scores that do not "
            "depend on them"
        )
    return None


def _thresholds(scores: Real[np.ndarray, " sample"]) -> list[float]:
    """Scores above which a half, a quarter and so on of `scores` lie; no membership is looked at."""
    ordered = np.sort(scores)[::-1]
    guesses = [len(scores) // 2]
    while guesses[-1] // 2 >= MIN_GUESSES:
        guesses.append(guesses[-1] // 2)
    return [float(ordered[count - 1]) for count in guesses]
