"""LiRA with priors that are learned from all samples, for few shadow models."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy.special import digamma

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.gap import fit_gap, log_sum_exp
from jaxmia.attacks.protocol import check_choice
from jaxmia.attacks.signal import VIEWS, Fit, Views, signals
from jaxmia.attacks.student import log_student
from jaxmia.attacks.variance import FLOOR, fit_spread, trigamma_of_half

STRATUM = 500
STRATA = 10

TAILS = (np.inf, 16.0, 8.0, 4.0)
"""Candidate degrees of freedom for the distribution of one sample's margins over models; the first is Gaussian."""


@dataclass(frozen=True)
class Adaptive:
    """`log p(phi | IN, shadows) - log p(phi | OUT, shadows)` in nats, under priors learned from the pool.

    The samples are divided into strata of similar mean margin. Within each stratum, by empirical Bayes:
    1. OUT variances have a scaled inverse chi-square prior; IN variances are a log-normal multiple of them.
    2. The gap between IN and OUT means, in standard deviations, has a mixture of Gaussians as its prior (`gap.py`), so
       that a sample with few models borrows the gap of similar samples, and many models outweigh the prior.
    3. The mean has a flat prior. The predictive distribution of the target's margin, IN or OUT, is then a mixture of
       Student t, one for each component of the gap's prior.
    4. The degrees of freedom of the margins are those under which the target's own margins, of unknown membership, are
       most likely.

    With many models it approaches per-example LiRA, and with few, global LiRA around the pooled mean. A sample without
    IN or without OUT models is scored by its prior.

    >>> rng = np.random.default_rng(0)
    >>> mask = rng.random((16, 500)) < 0.5
    >>> phi = rng.normal(size=(16, 1, 500)) + 2 * mask[:, None]
    >>> scores = Adaptive()(Evidence(phi[0], phi[1:], mask[1:], np.zeros(500, int)))
    >>> bool(scores[mask[0]].mean() > 1 > -1 > scores[~mask[0]].mean())
    True
    """

    views: Views = "mean"

    def __post_init__(self) -> None:
        check_choice(self, "views", VIEWS)

    @property
    def name(self) -> str:
        """`adaptive`, followed by the views unless they are `mean`."""
        return "adaptive" if self.views == "mean" else f"adaptive-{self.views}"

    def __call__(self, evidence: Evidence) -> Float[np.ndarray, " sample"]:
        """Computes the scores; higher means member.

        Raises:
            InputError: No sample has both IN and OUT models.
        """
        in_, out = evidence.sides
        if not ((in_.count > 0) & (out.count > 0)).any():
            in_, out = evidence.in_, evidence.out
        phi, in_, out = signals(evidence, self.views, in_, out)
        scores = np.empty(phi.shape)
        for signal, margins in enumerate(phi):
            strata = evidence.of_shadows(
                (self, signal), lambda signal=signal: _fit_strata(_one(in_, signal), _one(out, signal))
            )
            for stratum in strata:
                scores[signal, stratum.samples] = stratum.score(margins[stratum.samples])
        return scores.mean(0)


@dataclass(frozen=True)
class Variances:
    """OUT variance, IN variance as a multiple of it, and the degrees of freedom of the former."""

    variance: Float[np.ndarray, " sample"]
    multiple: Float[np.ndarray, " sample"]
    dof: Float[np.ndarray, " sample"]


def _one(fit: Fit, signal: int) -> Fit:
    """Selects one signal of a fit, so that arrays become `[sample]`."""
    return Fit(fit.count, fit.mean[signal], fit.sum_sq[signal])


def _fit_strata(in_: Fit, out: Fit) -> list["Stratum"]:
    pooled_mean = (in_.count * in_.mean + out.count * out.mean) / (in_.count + out.count)
    strata = int(np.clip(len(pooled_mean) // STRATUM, 1, STRATA))
    return [
        _fit_stratum(samples, *(Fit(fit.count[samples], fit.mean[samples], fit.sum_sq[samples]) for fit in (in_, out)))
        for samples in np.array_split(np.argsort(pooled_mean, kind="stable"), strata)
    ]


@dataclass(frozen=True)
class Stratum:
    """Samples of similar mean margin, with what their shadows tell about the target's margins.

    Margins are in standard deviations from the OUT mean, or from the IN mean where there is no OUT model.

    Attributes:
        samples: Indices of the samples.
        origin: Where the margins are counted from, in nats.
        variances: OUT variances, and IN variances as multiples of them.
        total: Precision of IN and OUT means together.
        in_share: The share of it that is the IN models'.
        out_center: OUT mean, for each component of the gap's prior.
        log_weight: Log-weight of each component.
        gap: Mean gap in each component.
        uncertain: Variance of the gap in each component.
    """

    samples: Integer[np.ndarray, " sample"]
    origin: Float[np.ndarray, " sample"]
    variances: Variances
    total: Float[np.ndarray, " sample"]
    in_share: Float[np.ndarray, " sample"]
    out_center: Float[np.ndarray, "component sample"]
    log_weight: Float[np.ndarray, "component sample"]
    gap: Float[np.ndarray, "component sample"]
    uncertain: Float[np.ndarray, "component sample"]

    def score(self, phi: Float[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
        """Scores of the target's margins, in nats."""
        x = (phi - self.origin) / np.sqrt(self.variances.variance)
        predictives = [
            (
                self._log_predictive(x, self.out_center + self.gap, self.variances.multiple, 1 - self.in_share, tail),
                self._log_predictive(x, self.out_center, 1.0, self.in_share, tail),
            )
            for tail in TAILS
        ]
        member, non_member = max(predictives, key=lambda pair: np.logaddexp(*pair).sum())
        return member - non_member

    def _log_predictive(
        self, x: np.ndarray, center: np.ndarray, noise: np.ndarray | float, lever: np.ndarray, tail: float
    ) -> np.ndarray:
        own = noise * (1 if np.isinf(tail) else (tail - 2) / tail)
        variance = own + 1 / self.total + lever**2 * self.uncertain
        return log_sum_exp(self.log_weight + log_student(x, center, variance, np.minimum(self.variances.dof, tail)))


def _fit_stratum(samples: Integer[np.ndarray, " sample"], in_: Fit, out: Fit) -> Stratum:
    variances = fit_variances(in_, out)
    spread = np.sqrt(variances.variance)
    has_in, has_out = in_.count > 0, out.count > 0
    origin = np.where(has_out, out.mean, in_.mean)
    out_mean = np.where(has_out, out.mean - origin, 0) / spread
    in_mean = np.where(has_in, in_.mean - origin, 0) / spread
    out_precision, in_precision = out.count, in_.count / variances.multiple
    total = out_precision + in_precision
    precision = out_precision * in_precision / total
    measured = precision > 0
    prior = fit_gap((in_mean - out_mean)[measured], precision[measured])
    log_weight, gap, uncertain = prior.posterior(in_mean - out_mean, precision)
    in_share = in_precision / total
    out_center = (1 - in_share) * out_mean + in_share * (in_mean - gap)
    return Stratum(samples, origin, variances, total, in_share, out_center, log_weight, gap, uncertain)


def fit_variances(in_: Fit, out: Fit) -> Variances:
    """Fits the variances of a stratum's samples under priors that they share."""
    multiple = _multiple(in_, out)
    sum_sq, dof = out.sum_sq + in_.sum_sq / multiple, out.dof + in_.dof
    spread = fit_spread(sum_sq[None], dof)
    variance = spread.posterior(sum_sq[None], dof)[0]
    return Variances(variance, multiple, spread.dof[0] + dof)


def _multiple(in_: Fit, out: Fit) -> Float[np.ndarray, " sample"]:
    """Ratio of IN to OUT variance of each sample, shrunk towards the typical ratio by its uncertainty."""
    measured = (in_.sum_sq > FLOOR * in_.count) & (out.sum_sq > FLOOR * out.count)
    if measured.sum() < 3:
        return np.ones(len(in_.count))
    half_in, half_out = np.maximum(in_.dof, 1) / 2, np.maximum(out.dof, 1) / 2
    log_ratio = np.zeros(len(measured))
    log_ratio[measured] = _log_variance(in_, half_in)[measured] - _log_variance(out, half_out)[measured]
    noise = trigamma_of_half(2 * half_in) + trigamma_of_half(2 * half_out)
    precision = measured / noise
    typical = np.average(log_ratio, weights=precision)
    real = max(0.0, float(np.average((log_ratio - typical) ** 2 - noise, weights=precision)))
    share = np.where(measured, real / (real + noise), 0)
    return np.exp(typical + share * (log_ratio - typical))


def _log_variance(fit: Fit, half: Float[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
    """Unbiased logarithm of the variance, from half its degrees of freedom."""
    return np.log(np.maximum(fit.sum_sq, FLOOR)) - np.log(2) - digamma(half)
