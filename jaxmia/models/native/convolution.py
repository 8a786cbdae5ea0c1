"""The three linear parts of a convolution of many models, computed by the C++ kernels on a CPU.

Arrays of bfloat16 are multiplied as such where the processor can, with sums in float32, and else as float32.
`threads` are the most that compute at once; the results do not depend on them. Each raises RuntimeError if the kernels
are unavailable.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxmia.models.native.build import compute_type, unavailable

Window = tuple[tuple[int, int], tuple[tuple[int, int], tuple[int, int]]]
"""Strides of rows and columns, and their padding as `(before, after)` pairs."""


def forward(inputs: jax.Array, kernels: jax.Array, window: Window, threads: int = 1) -> jax.Array:
    """Outputs `[model, n, h', w', d]` of `[model, n, h, w, c]` and `[model, i, j, c, d]`."""
    spatial = (
        max(0, (size + before + after - tap) // stride + 1)
        for size, tap, stride, (before, after) in zip(inputs.shape[2:4], kernels.shape[1:3], *window, strict=True)
    )
    return call("conv_forward", (*inputs.shape[:2], *spatial, kernels.shape[-1]), inputs, kernels, window, threads)


def input_gradient(
    cotangents: jax.Array, kernels: jax.Array, window: Window, spatial: tuple[int, int], threads: int = 1
) -> jax.Array:
    """Gradient with respect to inputs of height and width `spatial`, `[model, n, h, w, c]`."""
    shape = (*cotangents.shape[:2], *spatial, kernels.shape[-2])
    return call("conv_input_gradient", shape, cotangents, kernels, window, threads)


def kernel_gradient(
    inputs: jax.Array, cotangents: jax.Array, window: Window, taps: tuple[int, int], threads: int = 1
) -> jax.Array:
    """Gradient with respect to kernels of height and width `taps`, `[model, i, j, c, d]`."""
    shape = (inputs.shape[0], *taps, inputs.shape[-1], cotangents.shape[-1])
    return call("conv_kernel_gradient", shape, inputs, cotangents, window, threads)


def call(
    name: str,
    shape: tuple[int, ...],
    left: jax.Array,
    right: jax.Array,
    window: Window,
    threads: int,
    **attributes: np.number,
) -> jax.Array:
    """Calls a kernel of two arrays and a window; the result has the given shape and the type of the left array."""
    if reason := unavailable():
        raise RuntimeError(f"the lowering native: {reason}")
    if not (left.size and right.size and math.prod(shape)):
        return jnp.zeros(shape, left.dtype)  # sums over nothing, for which the kernels would divide by zero
    (down, across), ((top, _), (before, _)) = window
    dtype = compute_type(left.dtype)
    result = jax.ffi.ffi_call(f"jaxmia_{name}", jax.ShapeDtypeStruct(shape, dtype))(
        left.astype(dtype),
        right.astype(dtype),
        threads=np.int64(threads),
        down=np.int64(down),
        across=np.int64(across),
        top=np.int64(top),
        left=np.int64(before),
        **attributes,
    )
    return result.astype(left.dtype)
