"""Flax NNX networks, each called as `model(images, train=...)`."""

from jaxmia.models.attention import ensemble_attention
from jaxmia.models.conv import LOWERINGS, Lowering, ensemble_conv
from jaxmia.models.dense import ensemble_dense
from jaxmia.models.layers import Compute
from jaxmia.models.network import NETWORKS, Network
from jaxmia.models.norm import ensemble_norm
from jaxmia.models.trainable import TrainableNetwork

__all__ = [
    "LOWERINGS",
    "NETWORKS",
    "Compute",
    "Lowering",
    "Network",
    "TrainableNetwork",
    "ensemble_attention",
    "ensemble_conv",
    "ensemble_dense",
    "ensemble_norm",
]
