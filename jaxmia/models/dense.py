"""Dense layers, with the ReLU after them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxmia.config import Lowering
from jaxmia.models.native import dense as native
from jaxmia.models.native.over_models import over_models

Dense = Callable[..., jax.Array]
"""`dense` or another implementation of it."""


def dense(inputs: jax.Array, weights: jax.Array, bias: jax.Array | None, *, relu: bool = False) -> jax.Array:
    """Computes `inputs @ weights + bias` in the type of the inputs, and applies a ReLU if asked to.

    Args:
        inputs: Values `[n, c]`.
        weights: Weights `[c, d]`.
        bias: Summand `[d]`, if there is one.
        relu: Whether a ReLU follows.
    """
    outputs = jax.lax.dot_general(inputs, weights.astype(inputs.dtype), (((1,), (0,)), ((), ())))
    if bias is not None:
        outputs += bias.astype(inputs.dtype)[None]
    return jax.nn.relu(outputs) if relu else outputs


def ensemble_dense(lowering: Lowering) -> Dense:
    """Returns `dense`, computed by this package's C++ kernels for the lowering `native`."""
    return _native_dense if lowering == "native" else dense


def _native_dense(inputs: jax.Array, weights: jax.Array, bias: jax.Array | None, *, relu: bool = False) -> jax.Array:
    if inputs.ndim != 2 or weights.ndim != 2:
        raise ValueError(f"Expected a product of two matrices, got shapes {inputs.shape} and {weights.shape}.")
    shift = None if bias is None else bias.astype(jnp.float32)
    return _native(relu, bias is not None)(inputs, weights.astype(jnp.float32), shift)


@functools.cache
def _native(relu: bool, biased: bool) -> Callable[..., jax.Array]:
    forward = over_models(functools.partial(native.forward, relu=relu))
    backward = over_models(functools.partial(native.backward, biased=biased))

    @jax.custom_vjp
    def layer(inputs: jax.Array, weights: jax.Array, bias: jax.Array | None) -> jax.Array:
        return forward(inputs, weights, bias)

    def save(*operands: Any) -> Any:
        inputs, weights, bias = (operand and operand.value for operand in operands)
        outputs = forward(inputs, weights, bias)
        # Nobody needs the gradient with respect to the images, the inputs of the first layer.
        kept = weights if operands[0].perturbed else None
        return outputs, (inputs, kept, outputs if relu else None)

    def pull(saved: Any, cotangents: Any) -> Any:
        slopes: Any = cotangents
        if isinstance(cotangents, SymbolicZero):
            slopes = jnp.zeros(slopes.shape, slopes.dtype)
        return backward(*saved, slopes)

    layer.defvjp(save, pull, symbolic_zeros=True)
    return layer
