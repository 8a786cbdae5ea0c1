"""The protocol of networks that can be trained."""

from typing import Any, Protocol, runtime_checkable

import jax

from jaxmia.models.layers import Compute

Arrays = dict[str, Any]
"""A tree of arrays, as nested dicts."""


@runtime_checkable
class TrainableNetwork(Protocol):
    """A network as pure functions of arrays, which `jit`, `vmap` and `grad` take."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes of a sample: height, width and channels of an image, or number of features."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def convolutional(self) -> bool:
        """Whether the network has convolutions, so that their lowering matters."""
        ...

    @property
    def dense(self) -> bool:
        """Whether dense layers are computed by `Compute.dense`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that determines what the network computes, as plain JSON."""
        ...

    def init(self, key: jax.Array, compute: Compute) -> tuple[Arrays, Arrays]:
        """Draws initial weights and statistics from a key."""
        ...

    def apply(
        self, params: Arrays, stats: Arrays, batch: jax.Array, key: jax.Array, compute: Compute, *, train: bool
    ) -> tuple[jax.Array, Arrays]:
        """Computes float32 logits `[sample, class]` of normalised samples, and new statistics; `key` is for dropout."""
        ...
