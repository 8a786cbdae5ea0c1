"""BASE, the continuous form of RMIA (Lassila et al., 2025), and the likelihood ratio that both use."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.moments import Moments, log_probability, moments
from jaxmia.attacks.protocol import Attack, check_choice
from jaxmia.attacks.signal import VIEWS, Views, weights
from jaxmia.errors import InputError


def log_ratios(
    evidence: Evidence, offline: float | None, views: Views = "each", temperature: float = 1.0
) -> Float[np.ndarray, "signal sample"]:
    """`log p(x) - log pbar(x)` in nats.

    Args:
        evidence: Margins of the target and the shadows.
        offline: None for `pbar = (p_in + p_out) / 2`; otherwise the slope `a` of `p_in = a p_out + (1 - a)`, which
            replaces models trained on the sample.
        views: How views are combined into signals; with `each`, every view is a signal.
        temperature: `p = sigmoid(signal / temperature)`.

    Raises:
        InputError: A sample has no OUT model or, with `offline` None, no IN model.
    """
    mapping = weights(evidence, views) / temperature
    in_, out = evidence.sides
    if (views, temperature) != ("each", 1):
        in_, out = evidence.of_shadows(("softened", views, temperature), lambda: _softened(evidence, mapping))
    out = evidence.complete(out, "OUT").log_mean_p
    if offline is None:
        log_mean = np.logaddexp(evidence.complete(in_, "IN").log_mean_p, out) - np.log(2)
    elif offline == 1:
        log_mean = out
    else:
        log_mean = np.logaddexp(np.log1p(offline) + out, np.log1p(-offline)) - np.log(2)
    return log_probability(mapping @ evidence.target) - log_mean


def _softened(evidence: Evidence, mapping: Float[np.ndarray, "signal view"]) -> tuple[Moments, Moments]:
    """IN and OUT moments of the signals of the shadows."""
    shadows = np.stack([mapping @ phi for phi in evidence.shadows.astype(np.float64, copy=False)])
    return moments(shadows, evidence.mask)


def check_slope(attack: Attack, offline: float | None) -> None:
    """Checks that the slope `a` of an attack is between 0 and 1.

    Raises:
        InputError: It is not.
    """
    if offline is not None and not 0 <= offline <= 1:
        raise InputError(f"{type(attack).__name__}: offline: {offline} is not between 0 and 1")


@dataclass(frozen=True)
class Base:
    """`log p(x) - log pbar(x)`, in nats, averaged over the signals.

    Attributes:
        offline: RMIA's slope `a`, for RMIA's offline `pbar`; None to use IN models, as published.
        temperature: `p = sigmoid(phi / temperature)`. Values above 1 give more weight to differences between samples of
            high confidence.
        views: How views are combined; with `each`, every view has its own ratio.

    >>> Base().name, Base(0.95, 2.0, "fisher").name
    ('base-online', 'base-offline-0.95-temperature-2-fisher')
    """

    offline: float | None = None
    temperature: float = 1.0
    views: Views = "each"

    def __post_init__(self) -> None:
        check_slope(self, self.offline)
        check_choice(self, "views", VIEWS)
        if not 0 < self.temperature < np.inf:
            raise InputError(f"Base: temperature: {self.temperature} is not above 0 and finite")

    @property
    def name(self) -> str:
        """`base-online` or `base-offline-` and the slope, followed by temperature and views unless they are default."""
        side = "online" if self.offline is None else f"offline-{self.offline:g}"
        temperature = "" if self.temperature == 1 else f"-temperature-{self.temperature:g}"
        return f"base-{side}{temperature}" + ("" if self.views == "each" else f"-{self.views}")

    def __call__(self, evidence: Evidence) -> Float[np.ndarray, " sample"]:
        """Computes the scores; higher means member.

        Raises:
            InputError: A sample has no OUT model or, with `offline` None, no IN model.
        """
        return log_ratios(evidence, self.offline, self.views, self.temperature).mean(0)
