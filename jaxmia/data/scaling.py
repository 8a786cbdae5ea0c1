"""Scaling of features by the statistics of their pool."""

import logging
from dataclasses import replace

import numpy as np

from jaxmia.data.kinds import FEATURES, kind_of
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError

logger = logging.getLogger(__name__)


def standardised(pool: Pool, reference: Pool | None = None) -> Pool:
    """Scales each feature to mean 0 and standard deviation 1 over all samples of a pool; constant ones become 0.

    The target is queried on the scaled features, so it should have been trained on features scaled in the same way.

    Args:
        pool: Pool that is scaled.
        reference: Pool whose samples give the means and standard deviations; by default the pool itself.

    Raises:
        InputError: A pool does not hold features, or they differ in number.
    """
    features, given = (one.images_to("scale") for one in (pool, reference or pool))
    if kind_of(features) is not FEATURES:
        raise InputError(
            f"challenge.scaling: pool scales rows of features, but the pool contains {kind_of(features).name}"
        )
    if features.shape[1:] != given.shape[1:]:
        raise InputError(
            f"challenge.scaling: pool: samples of {list(features.shape[1:])} cannot be scaled as those of "
            f"{list(given.shape[1:])} that shadows were trained on"
        )
    mean, std = given.mean(0, dtype=np.float64), given.std(0, dtype=np.float64)
    constant = std == 0
    scaled = ((features - mean) / np.where(constant, 1, std)).astype(np.float32)
    logger.info(
        f"pool: {features.shape[1]} features scaled by their mean and standard deviation over all {len(given)} samples"
        + (f"; {constant.sum()} are constant" if constant.any() else "")
    )
    return replace(pool, images=scaled)
