"""Batch normalisation of many models and the activation after it, computed by the C++ kernels on a CPU.

Each function raises RuntimeError if the kernels are unavailable. Arrays are `[model, ..., channel]`, parameters and
statistics float32 `[model, channel]`. `threads` are the most that compute at once; the results do not depend on them.
"""

from enum import IntEnum

import jax
import jax.numpy as jnp
import numpy as np

from jaxmia.models.native.build import compute_type, unavailable


class Activation(IntEnum):
    """Operation after the normalisation; the numbers are those of the kernels."""

    NONE = 0
    RELU = 1
    ADD_RELU = 2


def forward(
    inputs: jax.Array,
    shortcut: jax.Array | None,
    scale: jax.Array,
    bias: jax.Array,
    *,
    activation: Activation,
    epsilon: float,
    threads: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises by the statistics of the batch; returns outputs, mean and biased variance.

    Args:
        inputs: Values to normalise.
        shortcut: Values to add before the ReLU, for `Activation.ADD_RELU` only.
        scale: Factor after the normalisation.
        bias: Summand after the normalisation.
        activation: Operation after the normalisation.
        epsilon: Added to the variance.
        threads: Most threads that compute at once.
    """
    values = _pixels(inputs)
    added = values if shortcut is None else _pixels(shortcut)
    vectors = jax.ShapeDtypeStruct(scale.shape, jnp.float32)
    call = _call("forward", (jax.ShapeDtypeStruct(values.shape, values.dtype), vectors, vectors))
    how = _attributes(activation, epsilon, threads)
    outputs, mean, var = call(values, added, scale, bias, **how)
    return outputs.reshape(inputs.shape).astype(inputs.dtype), mean, var


def backward(
    inputs: jax.Array,
    outputs: jax.Array,
    cotangents: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    *,
    activation: Activation,
    epsilon: float,
    threads: int = 1,
) -> tuple[jax.Array, jax.Array | None, jax.Array, jax.Array]:
    """Gradients with respect to inputs, shortcut (None where there was none), scale and bias."""
    values, results, given = _pixels(inputs), _pixels(outputs), _pixels(cotangents)
    like = jax.ShapeDtypeStruct(values.shape, values.dtype)
    added = like if activation == Activation.ADD_RELU else jax.ShapeDtypeStruct((0,), values.dtype)
    vectors = jax.ShapeDtypeStruct(scale.shape, jnp.float32)
    call = _call("backward", (like, added, vectors, vectors))
    how = _attributes(activation, epsilon, threads)
    slopes, shortcut, scale_slope, bias_slope = call(values, results, given, scale, bias, mean, var, **how)
    shaped = [slope.reshape(inputs.shape).astype(inputs.dtype) for slope in (slopes, shortcut) if slope.size]
    return shaped[0], shaped[1] if len(shaped) > 1 else None, scale_slope, bias_slope


def _pixels(array: jax.Array) -> jax.Array:
    """The array as `[model, pixel, channel]`, in a type of the kernels."""
    return array.reshape(len(array), -1, array.shape[-1]).astype(compute_type(array.dtype))


def _attributes(activation: Activation, epsilon: float, threads: int) -> dict[str, np.number]:
    return {"threads": np.int64(threads), "activation": np.int64(activation), "epsilon": np.float32(epsilon)}


def _call(part: str, results: tuple[jax.ShapeDtypeStruct, ...]):
    if reason := unavailable():
        raise RuntimeError(f"the lowering native: {reason}")
    return jax.ffi.ffi_call(f"jaxmia_norm_{part}", results)
