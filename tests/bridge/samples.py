"""What small challenge files hold."""

import numpy as np
import torch


class MembershipDataset:
    pass


MembershipDataset.__module__ = "__main__"


def fields(count=6, first=100, shape=(3, 5, 4), seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
    return {
        "ids": list(range(first, first + count)),
        "imgs": [torch.from_numpy(level).float() / 255 for level in levels],
        "labels": [index % 3 for index in range(count)],
        "membership": [index % 2 for index in range(count)],
        "transform": None,
    }


def levels(seed=0, count=6, shape=(3, 5, 4)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8).transpose(0, 2, 3, 1)
