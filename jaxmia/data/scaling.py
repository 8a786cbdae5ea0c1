"""Scaling of features by the statistics of their pool."""

import logging
from dataclasses import replace

import numpy as np

from jaxmia.data.kinds import FEATURES, kind_of
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError

logger = logging.getLogger(__name__)


def standardised(pool: Pool) -> Pool:
    """Scales each feature to mean 0 and standard deviation 1 over all samples of the pool; constant ones become 0.

    The target is queried on the scaled features, so it should have been trained on features scaled in the same way.

    Raises:
        InputError: The pool does not hold features.
    """
    features = pool.images_to("scale")
    if kind_of(features) is not FEATURES:
        raise InputError(
            f"challenge.scaling: pool scales rows of features, but the pool contains {kind_of(features).name}"
        )
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    constant = std == 0
    scaled = ((features - mean) / np.where(constant, 1, std)).astype(np.float32)
    logger.info(
        f"pool: {features.shape[1]} features scaled by their mean and standard deviation over all {len(pool)} samples"
        + (f"; {constant.sum()} are constant" if constant.any() else "")
    )
    return replace(pool, images=scaled)
