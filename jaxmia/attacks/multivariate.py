"""LiRA over all views at once (Carlini et al., 2022, section VI-C), with covariances that few models can carry."""

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.moments import Moments
from jaxmia.attacks.variance import FLOOR, fit_spread

MAX_SAMPLES = 2000
"""Samples on which the prior's weight is chosen, at most."""

PRIOR_WEIGHTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
"""Degrees of freedom beyond the least possible ones that are tried."""


@dataclass(frozen=True)
class LiraMultivariate:
    """`log N(phi; mean_in, cov_in) - log N(phi; mean_out, cov_out)` over the vector of views, in nats.

    A side's covariance is the posterior mean under an inverse Wishart prior, plus the mean's own error. The prior's
    center is the correlation of views over all samples at the sample's own level of variance; its weight maximises the
    marginal likelihood.
    """

    @property
    def name(self) -> str:
        """`lira-multivariate`."""
        return "lira-multivariate"

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Scores `[sample]`; higher means member.

        Raises:
            InputError: A sample has no IN or no OUT model.
        """
        in_, out = evidence.in_, evidence.out
        level = _level(in_, out)
        return _log_density(evidence.target, in_, level) - _log_density(evidence.target, out, level)


def _level(in_: Moments, out: Moments) -> np.ndarray:
    """Each sample's variance averaged over views, tied over IN and OUT and shrunk, `[sample]`."""
    sum_sq = np.einsum("vvn->n", in_.scatter + out.scatter) / len(in_.mean)
    dof = np.maximum(in_.count - 1, 0) + np.maximum(out.count - 1, 0)
    return fit_spread(sum_sq[None], dof).posterior(sum_sq[None], dof)[0]


def _log_density(phi: np.ndarray, side: Moments, level: np.ndarray) -> np.ndarray:
    """Log-density of the target's views on one side, without the constant that both sides share."""
    views = len(phi)
    dof = np.maximum(side.count - 1, 0)
    scatter = side.scatter.transpose(2, 0, 1)
    typical = (scatter / level[:, None, None]).sum(0) / max(dof.sum(), 1) + FLOOR * np.eye(views)
    center = typical * level[:, None, None]
    weight = _prior_weight(center, scatter, dof)
    covariance = (weight * center + scatter) / (weight + dof)[:, None, None]
    covariance *= (1 + 1 / side.count)[:, None, None]
    covariance += FLOOR * np.eye(views)
    deviation = (phi - side.mean).T[:, :, None]
    distance = (deviation * np.linalg.solve(covariance, deviation)).sum((1, 2))
    return -0.5 * (distance + np.linalg.slogdet(covariance)[1])


def _prior_weight(center: np.ndarray, scatter: np.ndarray, dof: np.ndarray) -> float:
    """The weight `w` of the prior `InverseWishart(w + views + 1, w * center)` that makes the scatters likeliest."""
    stride = -(-len(center) // MAX_SAMPLES)
    center, scatter, dof = center[::stride], scatter[::stride], dof[::stride]
    views = center.shape[1]

    def log_likelihood(weight: float) -> float:
        prior = weight + views + 1
        both = (prior + dof) / 2
        shape = _log_gamma(both, views) - _log_gamma(prior / 2, views)
        before, after = np.linalg.slogdet(weight * center)[1], np.linalg.slogdet(weight * center + scatter)[1]
        return float((shape + prior / 2 * before - both * after).sum())

    return max(PRIOR_WEIGHTS, key=log_likelihood)


def _log_gamma(x: np.ndarray | float, dimension: int) -> np.ndarray:
    """Logarithm of the multivariate gamma function, without the constant that depends on the dimension alone."""
    return np.sum([gammaln(np.asarray(x) - j / 2) for j in range(dimension)], axis=0)
