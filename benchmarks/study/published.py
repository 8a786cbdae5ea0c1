"""The two attacks to be at least as strong as, in the forms that their sources compute."""

from dataclasses import dataclass

import numpy as np

from jaxmia.attacks import Evidence
from jaxmia.attacks.lira import log_normal
from jaxmia.attacks.moments import log_probability


@dataclass(frozen=True)
class LiraPublished:
    """LiRA online with fixed variance (Carlini et al., 2022): medians of IN and OUT, one variance for both.

    That variance is of all raw margins of IN models, across samples, as in the authors' program (`plot.py`), where it
    serves both sides. Unlike there no sample's models are left out so that all have equally many, which makes it
    stronger. Log-ratios are averaged over the views. LeakPro computes another form: means, and a raw spread a side.
    """

    name: str = "LiRA as published"

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Scores `[sample]`; higher means member."""
        shadows = evidence.shadows.astype(np.float64)
        inside, outside = (np.where(side[:, None], shadows, np.nan) for side in (evidence.mask, ~evidence.mask))
        variance = np.nanvar(inside, axis=(0, 2))[:, None]
        member, other = (
            log_normal(evidence.target, np.nanmedian(side, axis=0), variance) for side in (inside, outside)
        )
        return (member - other).mean(0)


@dataclass(frozen=True)
class RmiaPublished:
    """RMIA online (Zarifzadeh et al., 2024): share of samples z with `ratio(x) / ratio(z) > gamma`, ties as they come.

    `ratio` is `p / pbar`, `pbar` the mean over IN and OUT models. The share is averaged over the views; as published,
    the views of a sample vote by majority.
    """

    gamma: float = 2.0
    name: str = "RMIA as published"

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Scores `[sample]`; higher means member."""
        inside, outside = evidence.in_.log_mean_p, evidence.out.log_mean_p
        ratio = log_probability(evidence.target) - np.logaddexp(inside, outside) + np.log(2)
        beaten = [np.searchsorted(np.sort(view), view - np.log(self.gamma)) for view in ratio]
        return np.mean(beaten, axis=0) / ratio.shape[1]
