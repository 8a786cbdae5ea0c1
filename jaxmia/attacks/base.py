"""BASE: the continuous form of RMIA (Lassila et al., 2025), and the likelihood ratio that both share."""

from dataclasses import dataclass

import numpy as np

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.moments import log_probability
from jaxmia.errors import InputError


def log_ratios(evidence: Evidence, offline: float | None) -> np.ndarray:
    """`log p(x) - log pbar(x)` in nats, `[view, sample]`.

    Args:
        evidence: The margins.
        offline: None for `pbar = (p_in + p_out) / 2`; else the slope `a` of `p_in = a p_out + (1 - a)`, which stands in
            for models trained on the sample.

    Raises:
        InputError: A sample has no OUT model, or online no IN model.
    """
    out = evidence.out.log_mean_p
    if offline is None:
        log_mean = np.logaddexp(evidence.in_.log_mean_p, out) - np.log(2)
    elif offline == 1:
        log_mean = out
    else:
        log_mean = np.logaddexp(np.log1p(offline) + out, np.log1p(-offline)) - np.log(2)
    return log_probability(evidence.target) - log_mean


def check_slope(offline: float | None) -> None:
    """Refuses a slope `a` outside 0 to 1.

    Raises:
        InputError: It is outside.
    """
    if offline is not None and not 0 <= offline <= 1:
        raise InputError(f"attack.offline: {offline} is not between 0 and 1")


@dataclass(frozen=True)
class Base:
    """`log p(x) - log pbar(x)`, in nats, averaged over the views.

    `offline` is RMIA's slope `a`, None where IN models are used.
    """

    offline: float | None = None

    def __post_init__(self) -> None:
        check_slope(self.offline)

    @property
    def name(self) -> str:
        """`base-online` or `base-offline-` and the slope."""
        return "base-online" if self.offline is None else f"base-offline-{self.offline:g}"

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Scores `[sample]`; higher means member.

        Raises:
            InputError: A sample has no OUT model, or online no IN model.
        """
        return log_ratios(evidence, self.offline).mean(0)
