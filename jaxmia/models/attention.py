"""Scaled dot-product attention."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmia.config import Lowering
from jaxmia.models.native import attention as native
from jaxmia.models.native.over_models import over_models

Attention = Callable[..., jax.Array]
"""`attention` or another implementation of it."""


def attention(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mask: jax.Array | None = None,
    factors: jax.Array | None = None,
    *,
    scale: float,
) -> jax.Array:
    """Averages the values by the softmax of the scores, which is computed in float32.

    Args:
        queries: Queries `[sample, head, query, channel]`.
        keys: Keys `[sample, head, key, channel]`.
        values: Values `[sample, head, key, unit]`.
        mask: Summand of the scores, or whether a query may attend to a key; `[sample, head, query, key]`, with one
            sample or head where all share it. A query that may attend to no key gives zeros.
        factors: Factors `[sample, head, query, key]` of the shares of the softmax, such as those of dropout.
        scale: Factor of the products of queries and keys.

    Returns:
        Averages `[sample, head, query, unit]`.
    """
    scores = (jnp.einsum("...qc,...kc->...qk", queries, keys) * scale).astype(jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf) if mask.dtype == jnp.bool_ else scores + mask
    nothing = jnp.isneginf(scores).all(-1, keepdims=True)
    shares = jnp.where(nothing, 0.0, jax.nn.softmax(jnp.where(nothing, 0.0, scores), axis=-1))
    shares = (shares if factors is None else shares * factors).astype(values.dtype)
    return jnp.einsum("...qk,...kc->...qc", shares, values)


def ensemble_attention(lowering: Lowering) -> Attention:
    """Returns `attention`, computed by this package's C++ kernels for the lowering `native`."""
    return _native_attention if lowering == "native" else attention


def _native_attention(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mask: jax.Array | None = None,
    factors: jax.Array | None = None,
    *,
    scale: float,
) -> jax.Array:
    score = queries.shape[-2], keys.shape[-2]
    bias = mask if mask is None or mask.dtype != jnp.bool_ else jnp.where(mask, 0.0, -jnp.inf)
    whole = None if bias is None else jnp.broadcast_to(bias, (*bias.shape[:-2], *score))
    operands = queries, keys, values, whole, factors
    wide = (None if array is None else array.astype(jnp.float32) for array in operands)
    return _native(scale)(*wide).astype(values.dtype)


@functools.cache
def _native(scale: float) -> Callable[..., jax.Array]:
    forward = over_models(functools.partial(native.forward, scale=scale))
    backward = over_models(functools.partial(native.backward, scale=scale))

    @jax.custom_vjp
    def attend(*operands: jax.Array | None) -> jax.Array:
        return forward(*operands)

    def save(*operands: jax.Array | None) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
        return forward(*operands), operands

    def pull(operands: Any, cotangents: jax.Array) -> tuple[jax.Array | None, ...]:
        queries, keys, values, bias, factors = operands
        # Few biases are learnt, so XLA computes their gradient, or removes it where nobody needs it.
        _, pull_bias = jax.vjp(lambda bias: attention(queries, keys, values, bias, factors, scale=scale), bias)
        return *backward(*operands, cotangents), *pull_bias(cotangents), None

    attend.defvjp(save, pull)
    return attend
