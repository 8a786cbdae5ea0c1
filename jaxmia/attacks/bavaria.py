"""Bayesian variance inference: LiRA with conjugate priors (Brännvall, 2026, arXiv:2603.11799)."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.lira import log_normal
from jaxmia.attacks.protocol import check_choice
from jaxmia.attacks.signal import VIEWS, Fit, Views, signals
from jaxmia.attacks.student import log_student
from jaxmia.attacks.variance import FLOOR, fit_spread, pooled

Predictive = Literal["student", "normal"]


@dataclass(frozen=True)
class Bavaria:
    """Log-ratio of IN and OUT in nats, each under a normal-inverse-gamma prior fitted to all samples.

    `student` is the posterior predictive Student t; `normal` the Gaussian with the posterior center and variance
    `beta / alpha`.

    >>> rng = np.random.default_rng(0)
    >>> mask = rng.random((16, 500)) < 0.5
    >>> phi = rng.normal(size=(16, 1, 500)) + 2 * mask[:, None]
    >>> scores = Bavaria()(Evidence(phi[0], phi[1:], mask[1:], np.zeros(500, int)))
    >>> bool(scores[mask[0]].mean() > 1 > -1 > scores[~mask[0]].mean())
    True
    """

    predictive: Predictive = "student"
    views: Views = "mean"

    def __post_init__(self) -> None:
        check_choice(self, "predictive", get_args(Predictive))
        check_choice(self, "views", VIEWS)

    @property
    def name(self) -> str:
        """`bavaria-` and the predictive distribution, followed by the views unless they are `mean`."""
        return f"bavaria-{self.predictive}" + ("" if self.views == "mean" else f"-{self.views}")

    def __call__(self, evidence: Evidence) -> Float[np.ndarray, " sample"]:
        """Computes the scores; higher means member.

        Raises:
            InputError: A sample has no IN or no OUT model.
        """
        phi, in_, out = signals(evidence, self.views, evidence.in_, evidence.out)
        return (_log_predictive(phi, in_, self.predictive) - _log_predictive(phi, out, self.predictive)).mean(0)


def _log_predictive(
    phi: Float[np.ndarray, "signal sample"], fit: Fit, predictive: Predictive
) -> Float[np.ndarray, "signal sample"]:
    spread = fit_spread(fit.sum_sq, fit.dof)
    center, weight = fit_center(fit)
    total = weight + fit.count
    mean = (weight * center + fit.count * fit.mean) / total
    sum_sq = fit.sum_sq + weight * fit.count / total * (fit.mean - center) ** 2
    variance = spread.posterior(sum_sq, fit.count)
    if predictive == "normal":
        return log_normal(phi, mean, variance)
    return log_student(phi, mean, variance * (1 + 1 / total), spread.dof + fit.count)


def fit_center(fit: Fit) -> tuple[Float[np.ndarray, "signal 1"], Float[np.ndarray, "signal 1"]]:
    """Centre of the prior and its weight in models, by moments of the samples' means."""
    center = fit.mean.mean(-1, keepdims=True)
    within = pooled(fit.sum_sq, fit.dof)
    between = fit.mean.var(-1, keepdims=True) - within * (1 / fit.count).mean()
    return center, within / np.maximum(between, FLOOR)
