"""Student's t: the predictive distribution of a Gaussian whose variance is itself estimated."""

import numpy as np
from scipy.special import gammaln

LARGEST_DOF = 1e6
"""Degrees of freedom that are practically Gaussian, with `gammaln` still exact to a billionth of a nat."""


def log_student(x: np.ndarray, center: np.ndarray, variance: np.ndarray, dof: np.ndarray) -> np.ndarray:
    """Log-density in nats of Student's t with that center, squared scale and degrees of freedom (may be infinite)."""
    f = np.minimum(dof, LARGEST_DOF)
    norm = gammaln((f + 1) / 2) - gammaln(f / 2) - 0.5 * np.log(f * np.pi * variance)
    return norm - (f + 1) / 2 * np.log1p((x - center) ** 2 / (f * variance))
