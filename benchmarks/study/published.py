"""The published attacks that this project is compared with, as their sources compute them.

BASE at temperatures 1 and 2 (as published, and as LeakPro softens it) and both forms of BaVarIA are the catalogue's.
"""

from dataclasses import dataclass

import numpy as np

from jaxmia.attacks import Attack, Base, Bavaria, Evidence
from jaxmia.attacks.lira import log_normal
from jaxmia.attacks.moments import log_probability

TINY = 1e-30
"""Added to spreads by the authors of LiRA, so that a single model on a side causes no division by zero."""

LEAKPRO_OWN = 64
"""Shadows from which LeakPro takes each sample's own spread."""


@dataclass(frozen=True)
class LiraPublished:
    """LiRA (Carlini et al., 2022) as the authors' program (`plot.py`) computes it: medians of IN and OUT.

    With `fixed` variance online, one of all raw margins of IN models, across samples, serves both sides, as there;
    offline it is that of the OUT models. Otherwise each sample has its own. Unlike there no sample's models are left
    out so that all have equally many, which makes it stronger. Log-densities are averaged over the views.
    """

    online: bool = True
    fixed: bool = True

    @property
    def name(self) -> str:
        """`LiRA as published`, with what differs from online and fixed."""
        words = [] if self.online else ["offline"]
        return ", ".join(["LiRA as published", *words, *([] if self.fixed else ["variance by sample"])])

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Scores `[sample]`; higher means member."""
        inside, outside = _sides(evidence)
        out_variance = self._variance(inside if self.online and self.fixed else outside)
        other = log_normal(evidence.target, _median(outside), out_variance)
        if not self.online:
            return -other.mean(0)
        member = log_normal(evidence.target, _median(inside), self._variance(inside))
        return (member - other).mean(0)

    def _variance(self, side: np.ndarray) -> np.ndarray:
        if self.fixed:
            return np.nanvar(side, axis=(0, 2))[:, None]
        return (np.nanstd(side, axis=0) + TINY) ** 2


@dataclass(frozen=True)
class LiraLeakPro:
    """LiRA online as LeakPro computes it: means, and the spread of all raw margins of a side for that side.

    From 64 shadows on each sample has its own spread on each side. Log-ratios are averaged over the views.
    """

    name: str = "LiRA of LeakPro"

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Scores `[sample]`; higher means member."""
        own = len(evidence.shadows) >= LEAKPRO_OWN
        densities = [
            log_normal(
                evidence.target,
                np.nanmean(side, axis=0),
                (np.nanstd(side, axis=0) + TINY) ** 2 if own else np.nanvar(side, axis=(0, 2))[:, None],
            )
            for side in _sides(evidence)
        ]
        return (densities[0] - densities[1]).mean(0)


@dataclass(frozen=True)
class RmiaPublished:
    """RMIA (Zarifzadeh et al., 2024): share of samples z with `ratio(x) / ratio(z) > gamma`, ties as they come.

    `ratio` is `p / pbar`; online `pbar` is the mean over IN and OUT models, offline `((1 + a) p_out + 1 - a) / 2`. The
    share is averaged over the views; as published, the views of a sample vote by majority.
    """

    gamma: float = 2.0
    offline: float | None = None

    @property
    def name(self) -> str:
        """`RMIA as published`, with the slope where it is offline."""
        return "RMIA as published" + ("" if self.offline is None else f", offline {self.offline:g}")

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Scores `[sample]`; higher means member."""
        outside = evidence.out.log_mean_p
        if self.offline is None:
            mean = np.logaddexp(evidence.in_.log_mean_p, outside) - np.log(2)
        else:
            mean = np.logaddexp(np.log1p(self.offline) + outside, np.log1p(-self.offline)) - np.log(2)
        ratio = log_probability(evidence.target) - mean
        beaten = [np.searchsorted(np.sort(view), view - np.log(self.gamma)) for view in ratio]
        return np.mean(beaten, axis=0) / ratio.shape[1]


PUBLISHED: tuple[Attack, ...] = (
    LiraPublished(),
    LiraPublished(fixed=False),
    LiraPublished(online=False),
    LiraPublished(online=False, fixed=False),
    LiraLeakPro(),
    RmiaPublished(),
    RmiaPublished(offline=0.3),
    Base(),
    Base(temperature=2.0),
    Bavaria("normal"),
    Bavaria("student"),
)
"""Published attacks with which this project is compared."""


def _sides(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Margins of IN and of OUT models, NaN elsewhere, float64 `[model, view, sample]` each."""
    shadows = evidence.shadows.astype(np.float64)
    return np.where(evidence.mask[:, None], shadows, np.nan), np.where(~evidence.mask[:, None], shadows, np.nan)


def _median(side: np.ndarray) -> np.ndarray:
    """Median over the models that are not NaN, `[view, sample]`; much faster than `np.nanmedian` on few models."""
    ordered, count = np.sort(side, axis=0), np.isfinite(side).sum(0, keepdims=True)
    return np.mean([np.take_along_axis(ordered, middle, 0)[0] for middle in ((count - 1) // 2, count // 2)], axis=0)
