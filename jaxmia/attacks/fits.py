"""Statistics of each sample's shadows, which explain its score."""

import numpy as np
from jaxtyping import Real

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.moments import Moments


def sample_fits(evidence: Evidence) -> dict[str, Real[np.ndarray, " sample"]]:
    """Computes the target's margin and the IN and OUT statistics of each sample, in view 0.

    Returns:
        Arrays `[sample]`: `target` (nats), and for `in` and `out` each `*_count` (models), `*_mean` (nats, NaN without
        a model) and `*_std` (nats, NaN with fewer than two). `gap` is how much a sample leaks, whether or not it is a
        member: `in_mean - out_mean` over the root mean square of `in_std` and `out_std` (Cohen's d with equal weights,
        no unit), NaN where these are not known or both 0.
    """
    in_, out = evidence.sides
    fits = {**_fit("in", in_), **_fit("out", out)}
    spread = np.hypot(fits["in_std"], fits["out_std"]) / np.sqrt(2)
    gap = (fits["in_mean"] - fits["out_mean"]) / np.where(spread > 0, spread, np.nan)
    return {"target": evidence.target[0], **fits, "gap": gap}


def _fit(name: str, side: Moments) -> dict[str, np.ndarray]:
    dof = side.count - 1
    return {
        f"{name}_count": side.count.astype(np.int64),
        f"{name}_mean": np.where(side.count > 0, side.mean[0], np.nan),
        f"{name}_std": np.where(dof > 0, np.sqrt(side.scatter[0, 0] / np.maximum(dof, 1)), np.nan),
    }
