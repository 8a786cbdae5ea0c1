"""PyTorch version of `jaxmia.data.preprocessing.Preprocessing`."""

import numpy as np
import torch
import torch.nn.functional as F

from jaxmia.data.kinds import FEATURES, IMAGES, TOKENS, kind_of
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.data.resize import resized_shape


def preprocess(preprocessing: Preprocessing, images: np.ndarray, device: torch.device) -> torch.Tensor:
    """Resizes and normalises samples for a network.

    Args:
        preprocessing: Size, mean and standard deviation.
        images: Images `[sample, height, width, channel]`, uint8 in [0, 255] or floats in [0, 1]; or rows of features or
            token ids.
        device: Device of the result.

    Returns:
        Network inputs: images `[sample, channel, height, width]` and features as float32, token ids as int64.
    """
    return normalised(preprocessing, resized(preprocessing, images, device))


def resized(preprocessing: Preprocessing, images: np.ndarray, device: torch.device) -> torch.Tensor:
    """Resizes images, the first half of `preprocess`; returns pixels in [0, 1], or rows as they are."""
    preprocessing.check(images)
    kind = kind_of(images)
    if kind is not IMAGES:
        return torch.tensor(images, dtype=torch.int64 if kind is TOKENS else torch.float32, device=device)
    pixels = torch.tensor(images, device=device).permute(0, 3, 1, 2)
    pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    if preprocessing.size is None:
        return pixels
    shape = resized_shape(images.shape[1], images.shape[2], preprocessing.size)
    if shape == images.shape[1:3]:
        return pixels
    return F.interpolate(pixels, shape, mode="bilinear", antialias=True, align_corners=False)


def normalised(preprocessing: Preprocessing, samples: torch.Tensor) -> torch.Tensor:
    """Normalises pixels in [0, 1] or features, the second half of `preprocess`; token ids stay as they are."""
    if not samples.is_floating_point():
        return samples
    rows = samples.ndim == 2
    mean, std = (
        torch.tensor(values, device=samples.device).reshape((-1,) if rows else (-1, 1, 1))
        for values in preprocessing.statistics(FEATURES if rows else IMAGES)
    )
    return (samples - mean) / std
