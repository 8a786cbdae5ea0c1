"""Recognises networks that return probabilities where logits are expected."""

import numpy as np
from jaxtyping import Float32

_ROUNDING = 1e-2
"""Tolerance on the sum of a row of probabilities, wide enough for half precision."""


def are_probabilities(outputs: Float32[np.ndarray, "sample class"]) -> bool:
    """Whether all rows, at least two, lie in [0, 1] and sum to 1.

    >>> are_probabilities(np.array([[0.25, 0.75], [1.0, 0.0]], np.float32))
    True
    >>> are_probabilities(np.array([[0.25, 0.75], [1.0, 0.5]], np.float32))
    False
    """
    between = (outputs >= 0) & (outputs <= 1 + _ROUNDING)
    sums = outputs.sum(-1, dtype=np.float64)
    return bool(len(outputs) > 1 and between.all() and np.allclose(sums, 1, rtol=0, atol=_ROUNDING))
