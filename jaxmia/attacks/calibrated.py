"""Difficulty calibration (Watson et al., 2022, arXiv:2111.08440)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxmia.attacks.evidence import Evidence
from jaxmia.attacks.protocol import check_choice
from jaxmia.attacks.signal import VIEWS, Views, project, weights


@dataclass(frozen=True)
class Calibrated:
    """`phi_target - mean(phi_out)`, in nats: the target's margin relative to models not trained on the sample.

    >>> mask = np.array([[True], [True], [False], [False]])
    >>> shadows = np.array([2.0, 4.0, -1.0, 1.0]).reshape(4, 1, 1)
    >>> evidence = Evidence(np.array([[3.0]]), shadows, mask, np.array([0]))
    >>> Calibrated()(evidence)
    array([3.])
    """

    views: Views = "mean"

    def __post_init__(self) -> None:
        check_choice(self, "views", VIEWS)

    @property
    def name(self) -> str:
        """`calibrated`, followed by the views unless they are `mean`."""
        return "calibrated" if self.views == "mean" else f"calibrated-{self.views}"

    def __call__(self, evidence: Evidence) -> Float[np.ndarray, " sample"]:
        """Computes the scores; higher means member.

        Raises:
            InputError: A sample has no OUT model.
        """
        mapping = weights(evidence, self.views)
        return (mapping @ evidence.target - project(evidence.out, mapping).mean).mean(0)
