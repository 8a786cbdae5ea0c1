"""The three linear parts of a convolution of many models with one kernel per channel, by the C++ kernels on a CPU.

Sums are float32, arrays float32 or, where the processor multiplies it, bfloat16. `threads` are the most that compute at
once; the results do not depend on them. Each function raises RuntimeError if the kernels are unavailable.
"""

import jax
import numpy as np

from jaxmia.models.native.convolution import Window, call

Dilation = tuple[int, int]
"""Distances between a kernel's taps, in rows and columns."""


def forward(
    inputs: jax.Array, kernels: jax.Array, window: Window, dilation: Dilation = (1, 1), threads: int = 1
) -> jax.Array:
    """Outputs `[model, n, h', w', c]` of `[model, n, h, w, c]` and `[model, i, j, 1, c]`."""
    spatial = (
        max(0, (size + before + after - gap * (tap - 1) - 1) // stride + 1)
        for size, tap, gap, stride, (before, after) in zip(
            inputs.shape[2:4], kernels.shape[1:3], dilation, *window, strict=True
        )
    )
    shape = (*inputs.shape[:2], *spatial, inputs.shape[-1])
    return _call("forward", shape, inputs, kernels, window, dilation, threads)


def input_gradient(
    cotangents: jax.Array,
    kernels: jax.Array,
    window: Window,
    spatial: tuple[int, int],
    dilation: Dilation = (1, 1),
    threads: int = 1,
) -> jax.Array:
    """Gradient with respect to inputs of height and width `spatial`, `[model, n, h, w, c]`."""
    shape = (*cotangents.shape[:2], *spatial, cotangents.shape[-1])
    return _call("input_gradient", shape, cotangents, kernels, window, dilation, threads)


def kernel_gradient(
    inputs: jax.Array,
    cotangents: jax.Array,
    window: Window,
    taps: tuple[int, int],
    dilation: Dilation = (1, 1),
    threads: int = 1,
) -> jax.Array:
    """Gradient with respect to kernels of height and width `taps`, `[model, i, j, 1, c]`."""
    shape = (inputs.shape[0], *taps, 1, inputs.shape[-1])
    return _call("kernel_gradient", shape, inputs, cotangents, window, dilation, threads)


def _call(
    part: str,
    shape: tuple[int, ...],
    left: jax.Array,
    right: jax.Array,
    window: Window,
    dilation: Dilation,
    threads: int,
) -> jax.Array:
    gaps = {"gap_down": np.int64(dilation[0]), "gap_across": np.int64(dilation[1])}
    return call(f"depthwise_{part}", shape, left, right, window, threads, **gaps)
