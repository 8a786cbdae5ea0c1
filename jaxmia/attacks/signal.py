"""Combines the views of a sample into the signals that a one-dimensional attack fits."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.moments import Moments

Views = Literal["identity", "mean", "each", "fisher"]
"""`identity`: view 0 alone. `mean`: margins averaged over the views before the fit. `each`: one fit per view, with the
scores averaged afterwards. `fisher`: the weighted mean of views that best separates IN from OUT."""

VIEWS: tuple[str, ...] = get_args(Views)


@dataclass(frozen=True)
class Fit:
    """Moments of the signals over IN or over OUT models.

    Attributes:
        count: Number of models.
        mean: Mean in nats.
        sum_sq: Sum of squared deviations from the mean.
    """

    count: Float[np.ndarray, " sample"]
    mean: Float[np.ndarray, "*signal sample"]
    sum_sq: Float[np.ndarray, "*signal sample"]

    @property
    def dof(self) -> Float[np.ndarray, " sample"]:
        """Degrees of freedom of `sum_sq`."""
        return np.maximum(self.count - 1, 0)


def weights(evidence: Evidence, views: Views) -> Float[np.ndarray, "signal view"]:
    """The linear map from views to signals; each row sums to 1."""
    count = len(evidence.target)
    if views == "each":
        return np.eye(count)
    if views == "mean":
        return np.full((1, count), 1 / count)
    if views == "fisher":
        return evidence.of_shadows("fisher", lambda: _fisher(*evidence.sides)[None])
    return np.eye(1, count)


def signals(
    evidence: Evidence, views: Views, in_: Moments, out: Moments
) -> tuple[Float[np.ndarray, "signal sample"], Fit, Fit]:
    """The target's signals in nats, and the fits of the IN and OUT models."""
    mapping = weights(evidence, views)
    return mapping @ evidence.target, project(in_, mapping), project(out, mapping)


def project(side: Moments, weights: Float[np.ndarray, "signal view"]) -> Fit:
    """Moments of the signals `weights @ views`, equal to those of the projected margins."""
    sum_sq = np.einsum("iwn,iw->in", np.tensordot(weights, side.scatter, 1), weights)
    return Fit(side.count, weights @ side.mean, np.maximum(sum_sq, 0))


def _fisher(in_: Moments, out: Moments) -> Float[np.ndarray, " view"]:
    """Fisher's discriminant between IN and OUT over all samples, each in units of its own standard deviation.

    A tenth of the mean variance is added to the diagonal, so that nearly identical views do not get large weights of
    opposite signs.
    """
    both = (in_.count > 0) & (out.count > 0)
    scatter = (in_.scatter + out.scatter)[:, :, both]
    spread = np.einsum("vvn->n", scatter)
    both_spread = spread > 0
    if not both_spread.any():
        return np.full(len(in_.mean), 1 / len(in_.mean))
    scale = spread[both_spread]
    within = (scatter[:, :, both_spread] / scale).mean(2)
    gap = ((in_.mean - out.mean)[:, both][:, both_spread] / np.sqrt(scale)).mean(1)
    within += 0.1 * np.trace(within) / len(within) * np.eye(len(within))
    direction = np.linalg.solve(within, gap)
    total = direction.sum()
    if total <= 0:  # no signal to follow
        return np.full(len(gap), 1 / len(gap))
    return direction / total
