"""Convolutions whose channels are divided into groups, each with kernels of its own, channels last."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Padding = Sequence[tuple[int, int]]
_JOINED = 16
"""Most features of groups that are convolved at once."""


def is_depthwise(inputs: jax.Array, kernel: jax.Array, groups: int) -> bool:
    """Whether each channel of `[n, ..., c]` has a kernel of its own in `[..., c / groups, d]`, and one output."""
    return 1 < groups == inputs.shape[-1] == kernel.shape[-1]


def in_groups(
    conv: Callable[[jax.Array, jax.Array], jax.Array], inputs: jax.Array, kernel: jax.Array, groups: int
) -> jax.Array:
    """Convolves groups one after another, or several narrow ones at once by a block-diagonal kernel.

    A grouped convolution is slow in XLA on a CPU, above all under `vmap`.

    Args:
        conv: Convolution of one group.
        inputs: Images `[n, h, w, c]`.
        kernel: Kernels `[i, j, c / groups, d]`.
        groups: Number of groups.
    """
    if groups == 1:
        return conv(inputs, kernel)
    *taps, channels, features = kernel.shape
    features //= groups
    joined = max(n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * features <= _JOINED))
    parts = kernel.reshape(*taps, 1, channels, groups // joined, joined, features)
    diagonal = jnp.eye(joined, dtype=kernel.dtype).reshape(1, 1, joined, 1, 1, joined, 1)
    kernels = jnp.moveaxis(parts * diagonal, 4, 0).reshape(-1, *taps, joined * channels, joined * features)
    pieces = jnp.split(inputs, len(kernels), -1)
    return jnp.concatenate([conv(piece, own) for piece, own in zip(pieces, kernels, strict=True)], -1)


def shifted_sum(
    inputs: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding, dilation: Sequence[int]
) -> jax.Array:
    """Convolves each channel with its own kernel, as a sum of shifted inputs, which stays element-wise under `vmap`.

    Args:
        inputs: Values `[n, ..., c]`.
        kernel: Kernels `[..., 1, c]`.
        strides: Stride of each spatial axis.
        padding: Padding of each spatial axis, before and after.
        dilation: Distance between the taps along each spatial axis.
    """
    *taps, _, channels = kernel.shape
    padded = jnp.pad(inputs, [(0, 0), *padding, (0, 0)])
    lengths = [
        max(0, (size - gap * (tap - 1) - 1) // stride + 1)
        for size, tap, stride, gap in zip(padded.shape[1:-1], taps, strides, dilation, strict=True)
    ]
    total: Any = 0
    for place in itertools.product(*map(range, taps)):
        starts = [tap * gap for tap, gap in zip(place, dilation, strict=True)]
        window = tuple(
            slice(start, start + length * stride, stride)
            for start, length, stride in zip(starts, lengths, strides, strict=True)
        )
        total = total + padded[(slice(None), *window)] * kernel[place].reshape([1] * (inputs.ndim - 1) + [channels])
    return total
