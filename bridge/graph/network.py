"""A PyTorch classifier as a pure function in JAX, which `jit`, `vmap` and `grad` take."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from bridge.graph.initial import Draw
from bridge.graph.interpret import run
from bridge.graph.program import Program, as_array, operator_name
from bridge.graph.tensor import Order, Tensor, channels_last, plain, stored
from jaxmia.errors import NotConvertible
from jaxmia.models import Compute

Arrays = dict[str, Any]
"""Arrays by the PyTorch names of parameters and buffers."""

Programs = Callable[[bool, int | None], Program]
"""Function from a mode (True for training) and a batch size, None for any, to a program."""


@dataclass(frozen=True, eq=False)
class ConvertedNetwork:
    """A PyTorch classifier that is trained in JAX; created by `bridge.graph.convert`.

    Weights are float32 and named as in PyTorch. Parameters without gradient count as statistics, as do float buffers
    and buffers that training changes; other buffers, such as tables of indices, are constants.

    Attributes:
        source: Origin of the network, for messages.
        shape: Shape of a sample in a pool; `(height, width, channel)` for images.
        classes: Number of logits.
        programs: Programs of the network.
        draw: Draws initial weights.
        frozen: Names of parameters without gradient.
    """

    source: str
    shape: tuple[int, ...]
    classes: int
    programs: Programs
    draw: Draw
    frozen: frozenset[str] = frozenset()

    def init(self, key: jax.Array, compute: Compute | None = None) -> tuple[Arrays, Arrays]:
        """Draws initial weights and statistics, which depend only on the key; PyTorch draws them on the host."""
        del compute
        seed = jax.random.bits(key, (), jnp.uint32)
        shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), self._drawn(0))
        return jax.pure_callback(self._drawn, shapes, seed, vmap_method="sequential")

    def apply(
        self, params: Arrays, stats: Arrays, batch: jax.Array, key: jax.Array, compute: Compute, *, train: bool
    ) -> tuple[jax.Array, Arrays]:
        """Computes logits and, in training, updates the statistics.

        Args:
            params: Weights.
            stats: Statistics.
            batch: Normalised samples in the pool's order of axes, `[sample, height, width, channel]` for images.
            key: Random key, for dropout and the like.
            compute: How the network computes.
            train: Whether to compute in training mode.

        Returns:
            Float32 logits `[sample, class]` and the new statistics.
        """
        program = self.programs(train, len(batch))
        arrays = {**params, **stats, **self._constants}
        values = {name: self._laid(name, self._cast(jnp.asarray(array), compute)) for name, array in arrays.items()}
        result = run(program, values, _input(batch), key=key, compute=compute)
        moved = {name: stored(value, self._order(name, value.ndim)) for name, value in result.moved.items()}
        return plain(result.output).astype(jnp.float32), {**stats, **(moved if train else {})}

    @property
    def convolutional(self) -> bool:
        """Whether the network has convolutions, so that their lowering matters."""
        return any(operator_name(node) == "convolution" for node in self._reference.calls)

    @property
    def dense(self) -> bool:
        """Whether the network has dense layers."""
        return any(operator_name(node) == "linear" for node in self._reference.calls)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the computation in both modes, the names and shapes of the weights, and the frozen ones."""
        shapes = sorted((name, tuple(value.shape)) for name, value in self._example.items())
        parts = [*(self.programs(train, None).digest for train in (True, False)), repr(shapes), repr(self.shape)]
        parts += sorted(self.frozen)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Digest of the network, as plain JSON."""
        return {"digest": self.digest}

    def check(self) -> None:
        """Checks that every operator of the network can be computed in JAX.

        Raises:
            NotConvertible: An operator has no counterpart; the message names each with its module.
        """
        missing = self._reference.missing | self.programs(False, None).missing
        if missing:
            listed = "; ".join(f"{name.removeprefix('aten.')} in {place}" for name, place in missing.items())
            raise NotConvertible(f"{self.source}: has operators that cannot be computed in JAX: {listed}")

    @cached_property
    def _reference(self) -> Program:
        return self.programs(True, None)

    @cached_property
    def _example(self) -> Mapping[str, torch.Tensor]:
        return self.draw(0)

    @cached_property
    def _constants(self) -> Arrays:
        names = set(self._reference.buffers.values()) - self._kept
        return {name: as_array(self._example[name]) for name in sorted(names)}

    @cached_property
    def _kept(self) -> set[str]:
        """Names of the parameters and buffers of which each model has its own."""
        program, example = self._reference, self._example
        buffers = {
            name for name in program.buffers.values() if name in program.moved or example[name].is_floating_point()
        }
        return {*program.parameters.values()} | buffers

    @cached_property
    def _orders(self) -> Mapping[str, Order]:
        """Order of axes in which kernels of convolutions and dense layers are stored: as `Compute` takes them."""
        orders = {}
        for node in self._reference.calls:
            operator = operator_name(node)
            if operator == "linear" or (operator == "convolution" and not node.args[6]):
                name = self._reference.parameters.get(getattr(node.args[1], "name", ""))
                if name:
                    orders[name] = (*range(2, self._example[name].ndim), 1, 0)
        return orders

    def _drawn(self, seed: Any) -> tuple[Arrays, Arrays]:
        drawn = self.draw(int(seed))
        arrays = {name: as_array(drawn[name]) for name in sorted(self._kept)}
        laid = {
            name: np.ascontiguousarray(array.transpose(self._order(name, array.ndim))) for name, array in arrays.items()
        }
        trained = set(self._reference.parameters.values()) - self.frozen
        return (
            {name: array for name, array in laid.items() if name in trained},
            {name: array for name, array in laid.items() if name not in trained},
        )

    def _order(self, name: str, ndim: int) -> Order:
        return self._orders.get(name, tuple(range(ndim)))

    def _laid(self, name: str, array: jax.Array) -> Tensor:
        return Tensor(array, self._order(name, array.ndim))

    @staticmethod
    def _cast(array: jax.Array, compute: Compute) -> jax.Array:
        """Casts floats to the compute type, except vectors, which normalisations take as float32."""
        return array.astype(compute.dtype) if array.ndim > 1 and jnp.issubdtype(array.dtype, jnp.floating) else array


def _input(batch: jax.Array) -> Tensor:
    """The batch as a tensor with PyTorch's axes; images are stored channels last."""
    images = batch.ndim == 4
    return Tensor(batch, channels_last(4) if images else tuple(range(batch.ndim)))
