"""Attention of many models, computed in float32 by the C++ kernels on a CPU.

Arrays are `[model, sample, head, query or key, channel]`, biases and factors `[model, sample, head, query, key]` with
one sample or head where all share them. Each function raises RuntimeError if the kernels are unavailable.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxmia.models.native.build import unavailable


def forward(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    bias: jax.Array | None,
    factors: jax.Array | None,
    *,
    scale: float,
) -> jax.Array:
    """Outputs `softmax(scale * queries @ keys.T + bias) * factors @ values`.

    Args:
        queries: Queries.
        keys: Keys, with as many channels.
        values: Values, as many as keys.
        bias: Summand of the scores, if there is one.
        factors: Factors of the shares of the softmax, if there are any.
        scale: Factor of the products of queries and keys.
    """
    results = (jax.ShapeDtypeStruct((*queries.shape[:-1], values.shape[-1]), jnp.float32),)
    operands = queries, keys, values, _optional(bias), _optional(factors)
    (outputs,) = _call("forward", results)(*operands, scale=np.float32(scale))
    return outputs


def backward(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    bias: jax.Array | None,
    factors: jax.Array | None,
    cotangents: jax.Array,
    *,
    scale: float,
) -> Sequence[jax.Array]:
    """Gradients with respect to queries, keys and values."""
    results = tuple(jax.ShapeDtypeStruct(array.shape, jnp.float32) for array in (queries, keys, values))
    operands = queries, keys, values, _optional(bias), _optional(factors), cotangents
    return _call("backward", results)(*operands, scale=np.float32(scale))


def _optional(array: jax.Array | None) -> jax.Array:
    """Numbers `[model, sample, head, key, query]` as the kernels read them, no models if there are none."""
    return jnp.zeros((0, 1, 1)) if array is None else array.swapaxes(-1, -2)


def _call(part: str, results: tuple[jax.ShapeDtypeStruct, ...]):
    if reason := unavailable():
        raise RuntimeError(f"the lowering native: {reason}")
    return jax.ffi.ffi_call(f"jaxmia_attention_{part}", results)
