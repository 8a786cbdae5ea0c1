"""What each sample's shadows look like, for those who want to see why it got its score."""

import numpy as np

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.moments import Side


def sample_fits(evidence: Evidence) -> dict[str, np.ndarray]:
    """The target's margin and the IN and OUT fits of each sample, in view 0.

    Returns:
        Arrays `[sample]`: `target` (nats), and for `in` and `out` each `*_count` (models), `*_mean` (nats, NaN without
        a model) and `*_std` (nats, NaN with fewer than two).
    """
    inside, outside = evidence.sides
    return {"target": evidence.target[0], **_fit("in", inside), **_fit("out", outside)}


def _fit(name: str, side: Side) -> dict[str, np.ndarray]:
    freedom = side.count - 1
    return {
        f"{name}_count": side.count.astype(np.int64),
        f"{name}_mean": np.where(side.count > 0, side.mean[0], np.nan),
        f"{name}_std": np.where(freedom > 0, np.sqrt(side.scatter[0, 0] / np.maximum(freedom, 1)), np.nan),
    }
