"""The same definitions once more, in plain loops over single numbers, to hold the vectorised ones against."""

import math

import numpy as np

from jaxmia.attacks.evidence import Evidence


def random_evidence(models=12, views=2, samples=40, seed=0, dtype=np.float64) -> Evidence:
    """Margins with a sample-dependent location, spread and IN gap; every sample has two models on each side."""
    rng = np.random.default_rng(seed)
    while True:
        mask = rng.random((models, samples)) < 0.5
        if mask.sum(0).min() >= 2 and mask.sum(0).max() <= models - 2:
            break
    location = rng.normal(3, 2, samples)
    spread = rng.gamma(3, 0.4, samples) + 0.1
    common = rng.normal(size=(models + 1, 1, samples))
    noise = 0.8 * common + 0.6 * rng.normal(size=(models + 1, views, samples))
    member = np.concatenate([rng.random((1, samples)) < 0.5, mask])
    phi = location + spread * (noise + 0.8 * member[:, None, :])
    return Evidence(phi[0], phi[1:].astype(dtype), mask, rng.integers(0, 3, samples))


def split(evidence: Evidence, view: int, sample: int) -> tuple[list[float], list[float]]:
    """IN and OUT margins of one sample in one view."""
    column = [float(value) for value in evidence.shadows[:, view, sample]]
    member = evidence.mask[:, sample]
    in_ = [value for value, chosen in zip(column, member, strict=True) if chosen]
    return in_, [value for value, chosen in zip(column, member, strict=True) if not chosen]


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def sum_sq(values: list[float]) -> float:
    return math.fsum((value - mean(values)) ** 2 for value in values)


def log_normal(x: float, center: float, variance: float) -> float:
    return -((x - center) ** 2) / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)


def log_p(phi: float) -> float:
    return -math.log1p(math.exp(-phi)) if phi > -30 else phi
