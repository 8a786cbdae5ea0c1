"""The robust membership inference attack (Zarifzadeh et al., 2024, arXiv:2312.03262)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxmia.attacks.base import check_slope, log_ratios
from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.ranks import ranks
from jaxmia.errors import InputError


@dataclass(frozen=True)
class Rmia:
    """RMIA: the fraction of samples z with `ratio(x) / ratio(z) > gamma`, where `ratio = p / pbar`.

    The population of z consists of all samples of the evidence. Because it is the same for every x, the fraction is a
    step function of `ratio(x)`. It is averaged over views. Ties are broken by that ratio (its geometric mean over
    views), in steps too small to change the order of different fractions. So with one view RMIA ranks samples as BASE
    does; with several, an extreme ratio in one view counts only by its rank.

    Attributes:
        gamma: Factor by which the sample must be more likely than z.
        offline: Slope `a` of `pbar = ((1 + a) p_out + (1 - a)) / 2`; None to use IN models.

    >>> mask = np.array([[True, True], [False, False]])
    >>> shadows = np.array([[[1.0, 1.0]], [[0.0, 0.0]]])
    >>> scores = Rmia()(Evidence(np.array([[3.0, -3.0]]), shadows, mask, np.array([0, 1])))
    >>> bool(scores[0] > scores[1])
    True
    """

    gamma: float = 2.0
    offline: float | None = None

    def __post_init__(self) -> None:
        check_slope(self, self.offline)
        if not self.gamma >= 1:
            raise InputError(f"Rmia: gamma: {self.gamma} is not at least 1")

    @property
    def name(self) -> str:
        """`rmia-online` or `rmia-offline-` and the slope, followed by gamma unless it is 2."""
        side = "online" if self.offline is None else f"offline-{self.offline:g}"
        return f"rmia-{side}" + ("" if self.gamma == 2 else f"-gamma-{self.gamma:g}")

    def __call__(self, evidence: Evidence) -> Float[np.ndarray, " sample"]:
        """Computes the scores, in [0, 1); higher means member.

        Raises:
            InputError: A sample has no OUT model or, with `offline` None, no IN model.
        """
        ratios = log_ratios(evidence, self.offline)
        views, samples = ratios.shape
        beaten = np.sum(
            [np.searchsorted(np.sort(ratio), ratio - np.log(self.gamma), side="left") for ratio in ratios], 0
        )
        return (beaten + ranks(ratios.mean(0)) / (samples + 1)) / (views * (samples + 1))
