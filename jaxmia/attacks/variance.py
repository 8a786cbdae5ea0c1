"""Estimates of each sample's variance over models, from few models or many."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.special import digamma, zeta

from jaxmia.attacks.signal import Fit

Variance = Literal["per-example", "global", "tied", "shrunk", "tied-shrunk"]
"""`per-example`: one variance per sample. `global`: one for all samples, of the residuals. `tied`: one per sample,
shared by IN and OUT. `shrunk`: between per-example and global, depending on how much samples differ and how many models
there are. `tied-shrunk`: the same for the variance that IN and OUT share."""

VARIANCES: tuple[str, ...] = get_args(Variance)

FLOOR = 1e-12
"""Smallest variance in nats squared: the square of the float32 resolution of a margin of ten nats."""


@dataclass(frozen=True)
class Spread:
    """Scaled inverse chi-square distribution of variances over samples.

    Attributes:
        scale: Typical variance, in nats squared.
        dof: Degrees of freedom of the prior; infinite if all samples have the same variance.
    """

    scale: Float[np.ndarray, "signal 1"]
    dof: Float[np.ndarray, "signal 1"]

    def posterior(
        self, sum_sq: Float[np.ndarray, "signal sample"], dof: Float[np.ndarray, " sample"]
    ) -> Float[np.ndarray, "signal sample"]:
        """Posterior variances in nats squared: the mean of prior and sample, weighted by degrees of freedom."""
        finite = np.where(np.isinf(self.dof), 0, self.dof)
        mixed = (finite * self.scale + sum_sq) / np.maximum(finite + dof, 1e-300)
        return np.maximum(np.where(np.isinf(self.dof) | (finite + dof == 0), self.scale, mixed), FLOOR)


def pooled(
    sum_sq: Float[np.ndarray, "signal sample"], dof: Float[np.ndarray, " sample"]
) -> Float[np.ndarray, "signal 1"]:
    """Variance of the residuals of all samples."""
    return np.maximum(sum_sq.sum(-1, keepdims=True) / max(dof.sum(), 1), FLOOR)


def fit_spread(sum_sq: Float[np.ndarray, "signal sample"], dof: Float[np.ndarray, " sample"]) -> Spread:
    """Fits the distribution of variances over samples, for each signal, by moments of their logarithm.

    With `z = log(sum_sq / dof)` and `h(f) = psi(f / 2) - log(f / 2)`, it solves `E z = log scale + h(dof) - h(prior)`
    and `Var z = psi'(dof / 2) + psi'(prior / 2)` for `scale` and `prior` (Smyth, 2004, doi:10.2202/1544-6115.1027).

    Args:
        sum_sq: Sums of squared deviations.
        dof: Degrees of freedom of each, whole numbers.
    """
    fits = [_fit_one(row, dof) for row in sum_sq]
    return Spread(np.array([[scale] for scale, _ in fits]), np.array([[prior] for _, prior in fits]))


def _fit_one(sum_sq: Float[np.ndarray, " sample"], dof: Float[np.ndarray, " sample"]) -> tuple[float, float]:
    used = (dof > 0) & (sum_sq > FLOOR * dof)
    if used.sum() < 3:
        return float(pooled(sum_sq[None], dof)[0, 0]), np.inf
    half = dof[used] / 2
    logs = np.log(sum_sq[used] / dof[used]) - digamma(half) + np.log(half)
    excess = logs.var(ddof=1) - trigamma_of_half(dof[used]).mean()
    if excess <= 0:
        return float(pooled(sum_sq[None], dof)[0, 0]), np.inf
    half_prior = inverse_trigamma(float(excess))
    return float(np.exp(logs.mean() + digamma(half_prior) - np.log(half_prior))), 2 * half_prior


def trigamma_of_half(dof: Float[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
    """`psi'(dof / 2)` of whole numbers above 0. It is slow to compute, and few of them are distinct."""
    return zeta(2, np.arange(1, dof.max() + 1) / 2)[dof.astype(np.intp) - 1]


def inverse_trigamma(value: float) -> float:
    """The `x > 0` with `psi'(x) = value > 0`, by Newton's method on `1 / psi'`, which is nearly linear."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(zeta(2, x))
        step = trigamma * (1 - trigamma / value) / (-2 * float(zeta(3, x)))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x


def variances(
    in_: Fit, out: Fit, mode: Variance
) -> tuple[Float[np.ndarray, " signal #sample"], Float[np.ndarray, " signal #sample"]]:
    """IN and OUT variances, in nats squared."""
    if mode in ("tied", "tied-shrunk"):
        sum_sq, dof = in_.sum_sq + out.sum_sq, in_.dof + out.dof
        shared = _own(sum_sq, dof) if mode == "tied" else fit_spread(sum_sq, dof).posterior(sum_sq, dof)
        return shared, shared
    return side_variance(in_, mode), side_variance(out, mode)


def side_variance(fit: Fit, mode: Variance) -> Float[np.ndarray, " signal #sample"]:
    """IN or OUT variances, in nats squared; for a single side, `tied` is the same as `per-example`."""
    if mode == "global":
        return pooled(fit.sum_sq, fit.dof)
    if mode == "shrunk":
        return fit_spread(fit.sum_sq, fit.dof).posterior(fit.sum_sq, fit.dof)
    return _own(fit.sum_sq, fit.dof)


def _own(
    sum_sq: Float[np.ndarray, "signal sample"], dof: Float[np.ndarray, " sample"]
) -> Float[np.ndarray, "signal sample"]:
    """Unbiased variance of each sample; with a single model it is undefined, and that of all samples is used."""
    own = sum_sq / np.maximum(dof, 1)
    return np.maximum(np.where(dof > 0, own, pooled(sum_sq, dof)), FLOOR)
