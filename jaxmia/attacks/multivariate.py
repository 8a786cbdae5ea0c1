"""LiRA over the vector of views (Carlini et al., 2022, section VI-C), with moments shrunk for few models."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.lira import log_normal
from jaxmia.attacks.moments import Moments
from jaxmia.attacks.signal import Fit, project
from jaxmia.attacks.variance import FLOOR, fit_spread, pooled

RIDGE = 1e-6
"""Fraction of the mean variance that is added to each view's variance, so that a repeated view adds no information."""


@dataclass(frozen=True)
class LiraMultivariate:
    """`log N(phi; mean_in, cov_in) - log N(phi; mean_out, cov_out)` over the vector of views, in nats.

    A sample often has fewer models than there are views, far too few to estimate its own covariance and gaps. So the
    views are rotated to directions in which, over all samples, the noise is white and the gaps between IN and OUT are
    uncorrelated. In each direction the sample's variances are shrunk towards those of all samples by their degrees of
    freedom, and its gap by how much gaps differ between samples beyond noise: if they do not, the direction adds no
    information about the sample.

    >>> rng = np.random.default_rng(0)
    >>> mask = rng.random((16, 500)) < 0.5
    >>> phi = rng.normal(size=(16, 18, 500)) + mask[:, None]
    >>> scores = LiraMultivariate()(Evidence(phi[0], phi[1:], mask[1:], np.zeros(500, int)))
    >>> bool(scores[mask[0]].mean() > 1 > -1 > scores[~mask[0]].mean())
    True
    """

    @property
    def name(self) -> str:
        """`lira-multivariate`."""
        return "lira-multivariate"

    def __call__(self, evidence: Evidence) -> Float[np.ndarray, " sample"]:
        """Computes the scores; higher means member.

        Raises:
            InputError: A sample has no IN or no OUT model.
        """
        in_, out = evidence.in_, evidence.out
        level = _level(in_, out)
        directions = _directions(in_, out, level)
        phi = directions @ evidence.target / np.sqrt(level)
        return _log_ratio(phi, _projected(in_, directions, level), _projected(out, directions, level)).sum(0)


def _level(in_: Moments, out: Moments) -> Float[np.ndarray, " sample"]:
    """Each sample's variance averaged over views, tied over IN and OUT and shrunk."""
    sum_sq = np.einsum("vvn->n", in_.scatter + out.scatter) / len(in_.mean)
    dof = np.maximum(in_.count - 1, 0) + np.maximum(out.count - 1, 0)
    return fit_spread(sum_sq[None], dof).posterior(sum_sq[None], dof)[0]


def _directions(in_: Moments, out: Moments, level: Float[np.ndarray, " sample"]) -> Float[np.ndarray, "direction view"]:
    """The linear map from views to directions: noise becomes white, gaps uncorrelated."""
    dof = np.maximum(in_.count - 1, 0) + np.maximum(out.count - 1, 0)
    noise = ((in_.scatter + out.scatter) / level).sum(-1) / max(dof.sum(), 1)
    noise += (RIDGE * np.trace(noise) / len(noise) + FLOOR) * np.eye(len(noise))
    gap = (in_.mean - out.mean) / np.sqrt(level)
    return eigh(np.atleast_2d(np.cov(gap)), noise)[1].T


def _projected(
    side: Moments, directions: Float[np.ndarray, "direction view"], level: Float[np.ndarray, " sample"]
) -> Fit:
    """Moments in each direction, in units of the sample's own standard deviation."""
    fit = project(side, directions)
    return Fit(fit.count, fit.mean / np.sqrt(level), fit.sum_sq / level)


def _log_ratio(phi: Float[np.ndarray, "direction sample"], in_: Fit, out: Fit) -> Float[np.ndarray, "direction sample"]:
    """Log-ratio of IN and OUT in each direction, with uncertain means integrated out."""
    in_variance, out_variance = _variances(in_, out)
    in_precision, out_precision = in_.count / in_variance, out.count / out_variance
    gap, gap_variance = _shrunk_gap(in_.mean - out.mean, 1 / in_precision + 1 / out_precision)
    total = in_precision + out_precision
    in_share = in_precision / total
    out_center = (1 - in_share) * out.mean + in_share * (in_.mean - gap)
    member = log_normal(phi, out_center + gap, in_variance + 1 / total + (1 - in_share) ** 2 * gap_variance)
    return member - log_normal(phi, out_center, out_variance + 1 / total + in_share**2 * gap_variance)


def _variances(
    in_: Fit, out: Fit
) -> tuple[Float[np.ndarray, "direction sample"], Float[np.ndarray, "direction sample"]]:
    """Shrunk IN and OUT variances of each sample, whose ratio in a direction is the same for all samples."""
    ratio = pooled(in_.sum_sq, in_.dof) / pooled(out.sum_sq, out.dof)
    sum_sq, dof = in_.sum_sq / ratio + out.sum_sq, in_.dof + out.dof
    variance = fit_spread(sum_sq, dof).posterior(sum_sq, dof)
    return ratio * variance, variance


def _shrunk_gap(
    gap: Float[np.ndarray, "direction sample"], noise: Float[np.ndarray, "direction sample"]
) -> tuple[Float[np.ndarray, "direction sample"], Float[np.ndarray, "direction sample"]]:
    """Posterior mean and variance of each gap, given the variance of its error and the gaps of all samples."""
    typical = gap.mean(-1, keepdims=True)
    real = np.maximum(gap.var(-1, keepdims=True) - noise.mean(-1, keepdims=True), 0)
    share = real / (real + noise)
    return typical + share * (gap - typical), share * noise
