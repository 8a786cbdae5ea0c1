"""The three linear parts of a convolution of many models, computed by the C++ kernels on a CPU.

Arrays of bfloat16 are multiplied as such where the processor can, with sums in float32, and else as float32; numbers of
groups that are narrower than a vector are widened to float32 where a sum has an odd number of them. `threads` are the
most that compute at once; the results do not depend on them. Each function raises RuntimeError if the kernels are
unavailable.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmia.models.native.build import compute_type, unavailable


class Window(NamedTuple):
    """How the kernels of a convolution meet its inputs, in rows and columns.

    Attributes:
        strides: Distances between the inputs of adjacent outputs.
        padding: Zeros `(before, after)` the inputs.
        dilation: Distances between the inputs of adjacent taps.
        groups: Number of groups of adjacent channels, each with adjacent outputs of its own.
    """

    strides: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def forward(inputs: jax.Array, kernels: jax.Array, window: Window, threads: int = 1) -> jax.Array:
    """Outputs `[model, n, h', w', d]` of `[model, n, h, w, c]` and `[model, i, j, c / groups, d]`."""
    spatial = (
        max(0, (size + before + after - gap * (tap - 1) - 1) // stride + 1)
        for size, tap, stride, (before, after), gap in zip(
            inputs.shape[2:4], kernels.shape[1:3], *window[:3], strict=True
        )
    )
    return _call("conv_forward", (*inputs.shape[:2], *spatial, kernels.shape[-1]), inputs, kernels, window, threads)


def input_gradient(
    cotangents: jax.Array, kernels: jax.Array, window: Window, spatial: tuple[int, int], threads: int = 1
) -> jax.Array:
    """Gradient with respect to inputs of height and width `spatial`, `[model, n, h, w, c]`."""
    shape = (*cotangents.shape[:2], *spatial, kernels.shape[-2] * window.groups)
    return _call("conv_input_gradient", shape, cotangents, kernels, window, threads)


def kernel_gradient(
    inputs: jax.Array, cotangents: jax.Array, window: Window, taps: tuple[int, int], threads: int = 1
) -> jax.Array:
    """Gradient with respect to kernels of height and width `taps`, `[model, i, j, c / groups, d]`."""
    shape = (inputs.shape[0], *taps, inputs.shape[-1] // window.groups, cotangents.shape[-1])
    return _call("conv_kernel_gradient", shape, inputs, cotangents, window, threads)


def _call(
    name: str, shape: tuple[int, ...], left: jax.Array, right: jax.Array, window: Window, threads: int
) -> jax.Array:
    if reason := unavailable():
        raise RuntimeError(f"the lowering native: {reason}")
    if not (left.size and right.size and math.prod(shape)):
        return jnp.zeros(shape, left.dtype)  # sums over nothing, for which the kernels would divide by zero
    dtype = compute_type(left.dtype)
    result = jax.ffi.ffi_call(f"jaxmia_{name}", jax.ShapeDtypeStruct(shape, dtype))(
        left.astype(dtype),
        right.astype(dtype),
        threads=np.int64(threads),
        down=np.int64(window.strides[0]),
        across=np.int64(window.strides[1]),
        top=np.int64(window.padding[0][0]),
        left=np.int64(window.padding[1][0]),
        gap_down=np.int64(window.dilation[0]),
        gap_across=np.int64(window.dilation[1]),
        groups=np.int64(window.groups),
    )
    return result.astype(left.dtype)
