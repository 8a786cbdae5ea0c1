"""Ranks of scores."""

import numpy as np
from jaxtyping import Float64, Real


def ranks(values: Real[np.ndarray, " sample"]) -> Float64[np.ndarray, " sample"]:
    """Rank of each value, from 1 for the lowest; ties share their mean rank, and a NaN makes every rank NaN.

    >>> ranks(np.array([0.5, 0.1, 0.5, 0.9]))
    array([2.5, 1. , 2.5, 4. ])
    """
    if np.isnan(values).any():
        return np.full(len(values), np.nan)
    _, level, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[level]
