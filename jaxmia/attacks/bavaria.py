"""Bayesian variance inference: LiRA with conjugate priors (Brännvall, 2026, arXiv:2603.11799)."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.lira import log_normal
from jaxmia.attacks.protocol import check_choice
from jaxmia.attacks.signal import VIEWS, Fit, Views, signals
from jaxmia.attacks.student import log_student
from jaxmia.attacks.variance import FLOOR, fit_spread, pooled

Predictive = Literal["student", "normal"]


@dataclass(frozen=True)
class Bavaria:
    """Log-ratio of IN and OUT under a normal-inverse-gamma prior a side, fitted from all samples, in nats.

    `student` is the posterior predictive Student t; `normal` the Gaussian with the posterior center and variance
    `beta / alpha`.
    """

    predictive: Predictive = "student"
    views: Views = "mean"

    def __post_init__(self) -> None:
        check_choice("predictive", self.predictive, get_args(Predictive))
        check_choice("views", self.views, VIEWS)

    @property
    def name(self) -> str:
        """`bavaria-` and the predictive, with the views where they are not `mean`."""
        return f"bavaria-{self.predictive}" + ("" if self.views == "mean" else f"-{self.views}")

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Scores `[sample]`; higher means member.

        Raises:
            InputError: A sample has no IN or no OUT model.
        """
        phi, inside, outside = signals(evidence, self.views, evidence.inside, evidence.outside)
        return (_log_predictive(phi, inside, self.predictive) - _log_predictive(phi, outside, self.predictive)).mean(0)


def _log_predictive(phi: np.ndarray, fit: Fit, predictive: Predictive) -> np.ndarray:
    spread = fit_spread(fit.squares, fit.freedom)
    center, weight = _fit_center(fit)
    total = weight + fit.count
    mean = (weight * center + fit.count * fit.mean) / total
    squares = fit.squares + weight * fit.count / total * (fit.mean - center) ** 2
    variance = spread.posterior(squares, fit.count)
    if predictive == "normal":
        return log_normal(phi, mean, variance)
    return log_student(phi, mean, variance * (1 + 1 / total), spread.freedom + fit.count)


def _fit_center(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """The prior's center and how many models it is worth, `[signal, 1]`, by moments of the samples' means."""
    center = fit.mean.mean(-1, keepdims=True)
    within = pooled(fit.squares, fit.freedom)
    between = fit.mean.var(-1, keepdims=True) - within * (1 / fit.count).mean()
    return center, within / np.maximum(between, FLOOR)
