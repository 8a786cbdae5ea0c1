"""The robust membership inference attack (Zarifzadeh et al., 2024, arXiv:2312.03262)."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from jaxmia.attacks.base import check_slope, log_ratios
from jaxmia.attacks.evidence import Evidence
from jaxmia.errors import InputError


@dataclass(frozen=True)
class Rmia:
    """Share of the population z for which `ratio(x) / ratio(z) > gamma`, with `ratio = p / pbar`, averaged over views.

    The population is every sample of the evidence. It being shared, the share is a step function of `ratio(x)`: its
    ties are broken by that ratio (its geometric mean over views), in steps too small to change the order of different
    shares. So with one view it ranks as BASE does; with several, no view counts for more than its rank, however extreme
    its ratio is.

    Attributes:
        gamma: How much more likely than z the sample must be.
        offline: The slope `a` of `pbar = ((1 + a) p_out + (1 - a)) / 2`; None where IN models are used.

    >>> mask = np.array([[True, True], [False, False]])
    >>> shadows = np.array([[[1.0, 1.0]], [[0.0, 0.0]]])
    >>> scores = Rmia()(Evidence(np.array([[3.0, -3.0]]), shadows, mask, np.array([0, 1])))
    >>> bool(scores[0] > scores[1])
    True
    """

    gamma: float = 2.0
    offline: float | None = None

    def __post_init__(self) -> None:
        check_slope(self.offline)
        if not self.gamma >= 1:
            raise InputError(f"attack.gamma: {self.gamma} is not at least 1")

    @property
    def name(self) -> str:
        """`rmia-online` or `rmia-offline-` and the slope, with gamma where it is not 2."""
        side = "online" if self.offline is None else f"offline-{self.offline:g}"
        return f"rmia-{side}" + ("" if self.gamma == 2 else f"-gamma-{self.gamma:g}")

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Scores `[sample]` in [0, 1); higher means member.

        Raises:
            InputError: A sample has no OUT model, or online no IN model.
        """
        ratios = log_ratios(evidence, self.offline)
        views, samples = ratios.shape
        beaten = np.sum(
            [np.searchsorted(np.sort(ratio), ratio - np.log(self.gamma), side="left") for ratio in ratios], 0
        )
        return (beaten + rankdata(ratios.mean(0)) / (samples + 1)) / (views * (samples + 1))
