"""Moments of the shadow models' margins on each sample: the sufficient statistics of every attack.

For each sample, models trained on it (IN) and the others (OUT) are treated separately.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer

ELEMENTS_PER_CHUNK = 2**20
"""Number of margins that a thread processes at once: 8 MiB per temporary, for any number of models."""

THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of the IN or of the OUT models of each sample.

    For a sample without such models, `count`, `mean` and `scatter` are 0 and `log_mean_p` is -inf.

    Attributes:
        count: Number of models.
        mean: Mean logit margin in nats.
        scatter: Sum over models of products of deviations from the mean, nats squared.
        log_mean_p: Logarithm of the mean probability of the label, nats.
    """

    count: Float64[np.ndarray, " sample"]
    mean: Float64[np.ndarray, "view sample"]
    scatter: Float64[np.ndarray, "view view sample"]
    log_mean_p: Float64[np.ndarray, "view sample"]

    def merge(self, other: "Moments") -> "Moments":
        """Moments of the union of two groups of models, without cancellation (Chan, Golub and LeVeque, 1983)."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        step = other.mean - self.mean
        log_sum = np.logaddexp(self.log_sum_p, other.log_sum_p)
        return Moments(
            count=count,
            mean=self.mean + share * step,
            scatter=self.scatter + other.scatter + self.count * share * step[:, None] * step[None, :],
            log_mean_p=log_sum - np.log(np.maximum(count, 1)),
        )

    def take(self, samples: Integer[np.ndarray, " taken"]) -> "Moments":
        """Restricts the moments to the samples of the given indices, in their order."""
        return Moments(
            self.count[samples], self.mean[:, samples], self.scatter[:, :, samples], self.log_mean_p[:, samples]
        )

    @property
    def log_sum_p(self) -> Float64[np.ndarray, "view sample"]:
        """Logarithm of the summed probabilities of the label."""
        return self.log_mean_p + np.log(np.maximum(self.count, 1))


def log_probability(phi: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Log-probability of the label, `-softplus(-phi)`, in nats, from logit margins of any shape."""
    return np.minimum(phi, 0) - np.log1p(np.exp(-np.abs(phi)))


def moments(
    shadows: Float[np.ndarray, "model view sample"], mask: Bool[np.ndarray, "model sample"]
) -> tuple[Moments, Moments]:
    """Computes the IN and OUT moments of every sample, in two passes over chunks of samples.

    Args:
        shadows: Logit margins in nats.
        mask: True where the model was trained on the sample.
    """
    models, views, samples = shadows.shape
    size = max(1, ELEMENTS_PER_CHUNK // max(1, models * views))

    def of_chunk(start: int) -> tuple[Moments, Moments]:
        chunk = slice(start, start + size)
        phi = np.ascontiguousarray(shadows[:, :, chunk].transpose(2, 1, 0), np.float64)
        member = np.ascontiguousarray(mask[:, chunk].T)[:, None, :]
        log_p = log_probability(phi)
        return _side(phi, log_p, member), _side(phi, log_p, ~member)

    with ThreadPoolExecutor(THREADS) as threads:
        chunks = list(threads.map(of_chunk, range(0, samples, size)))
    return _concatenate([in_ for in_, _ in chunks]), _concatenate([out for _, out in chunks])


def _side(
    phi: Float64[np.ndarray, "sample view model"],
    log_p: Float64[np.ndarray, "sample view model"],
    chosen: Bool[np.ndarray, "sample 1 model"],
) -> Moments:
    """Moments of the chosen models; the sample axis comes first in the arguments and last in the result."""
    count = chosen.sum(2, dtype=np.float64)
    divisor = np.maximum(count, 1)
    mean = (phi * chosen).sum(2) / divisor
    deviation = (phi - mean[:, :, None]) * chosen
    top = log_p.max(2, initial=-np.inf, where=chosen)
    shift = np.where(count > 0, top, 0)
    with np.errstate(divide="ignore"):
        log_mean_p = shift + np.log((np.exp(np.minimum(log_p - shift[:, :, None], 0)) * chosen).sum(2) / divisor)
    return Moments(
        count=count[:, 0],
        mean=mean.T,
        scatter=(deviation @ deviation.transpose(0, 2, 1)).transpose(1, 2, 0),
        log_mean_p=log_mean_p.T,
    )


def _concatenate(sides: list[Moments]) -> Moments:
    return Moments(
        count=np.concatenate([side.count for side in sides]),
        mean=np.concatenate([side.mean for side in sides], axis=-1),
        scatter=np.concatenate([side.scatter for side in sides], axis=-1),
        log_mean_p=np.concatenate([side.log_mean_p for side in sides], axis=-1),
    )
