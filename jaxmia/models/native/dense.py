"""Dense layers of many models with the ReLU after them, computed by the C++ kernels on a CPU.

Inputs of bfloat16 are multiplied as such where the processor can, with sums in float32, and else as float32; weights,
biases and their gradients are float32. Each function raises RuntimeError if the kernels are unavailable.
"""

import jax
import jax.numpy as jnp

from jaxmia.models.native.build import compute_type, unavailable


def forward(inputs: jax.Array, weights: jax.Array, bias: jax.Array | None, *, relu: bool) -> jax.Array:
    """Outputs `[model, n, d]` of inputs `[model, n, c]`, weights `[model, c, d]` and a bias `[model, d]`, if any."""
    values = inputs.astype(compute_type(inputs.dtype))
    shift = jnp.zeros(0) if bias is None else bias
    results = (jax.ShapeDtypeStruct((*inputs.shape[:2], weights.shape[-1]), values.dtype),)
    (outputs,) = _call("forward", results)(values, weights, shift, relu=relu)
    return outputs.astype(inputs.dtype)


def backward(
    inputs: jax.Array,
    weights: jax.Array | None,
    outputs: jax.Array | None,
    cotangents: jax.Array,
    *,
    biased: bool,
) -> tuple[jax.Array | None, jax.Array, jax.Array | None]:
    """Gradients with respect to inputs (None without the weights), weights, and bias (None without one).

    Args:
        inputs: Inputs of the layer.
        weights: Its weights; None if the gradient with respect to inputs is not needed.
        outputs: Its outputs where they come from a ReLU; None without one.
        cotangents: Gradient with respect to the outputs.
        biased: Whether the layer has a bias.
    """
    dtype = compute_type(inputs.dtype)
    values, slopes = inputs.astype(dtype), cotangents.astype(dtype)
    models, channels, units = len(inputs), inputs.shape[-1], cotangents.shape[-1]
    results = (
        jax.ShapeDtypeStruct(inputs.shape if weights is not None else (0,), dtype),
        jax.ShapeDtypeStruct((models, channels, units), jnp.float32),
        jax.ShapeDtypeStruct((models, units) if biased else (0,), jnp.float32),
    )
    input_slopes, weight_slopes, bias_slopes = _call("backward", results)(
        values,
        jnp.zeros(0) if weights is None else weights,
        jnp.zeros(0, dtype) if outputs is None else outputs.astype(dtype),
        slopes,
        relu=outputs is not None,
    )
    return (
        None if weights is None else input_slopes.astype(inputs.dtype),
        weight_slopes,
        bias_slopes if biased else None,
    )


def _call(part: str, results: tuple[jax.ShapeDtypeStruct, ...]):
    if reason := unavailable():
        raise RuntimeError(f"the lowering native: {reason}")
    return jax.ffi.ffi_call(f"jaxmia_dense_{part}", results)
