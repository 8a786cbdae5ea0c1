"""Matrix products, attention and embeddings."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bridge.graph.operators.random import dropout
from bridge.graph.tensor import Tensor, common_dtype, in_order, plain, stored, tensor
from jaxmia.models import Compute


def _linear(
    compute: Compute, value: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False
) -> Tensor:
    """Multiplies the last axis by `weight` `[out, in]`, in whatever order the other axes are stored."""
    last = value.ndim - 1
    order = (*(axis for axis in value.order if axis != last), last)
    dtype = common_dtype((value.array, weight.array))
    inputs = stored(value, order).astype(dtype)
    rows = inputs.reshape(-1, inputs.shape[-1])
    outputs = compute.dense(rows, stored(weight, (1, 0)), None if bias is None else bias.array, relu=relu)
    return Tensor(outputs.reshape(*inputs.shape[:-1], -1), order)


def _addmm(bias: jax.Array, left: jax.Array, right: jax.Array, beta: float = 1, alpha: float = 1) -> jax.Array:
    product = _matmul(left, right)
    bias = bias.astype(product.dtype).reshape((1,) * (product.ndim - bias.ndim) + bias.shape)
    return (bias if beta == 1 else beta * bias) + (product if alpha == 1 else alpha * product)


def _embedding(
    table: jax.Array,
    index: jax.Array,
    padding_index: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> jax.Array:
    """Looks up rows of a table; the row `padding_index` gets no gradient."""
    if padding_index >= 0:
        frozen = jnp.arange(len(table)) == padding_index
        table = jnp.where(frozen[:, None], jax.lax.stop_gradient(table), table)
    return jnp.take(table, index, axis=0)


def _attention(
    compute: Compute,
    key: jax.Array,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention; a boolean mask is True for keys that a query may attend to."""
    left, right, content = plain(query), plain(keys), plain(values)
    if enable_gqa:
        right, content = (jnp.repeat(part, left.shape[-3] // part.shape[-3], axis=-3) for part in (right, content))
    lead = jnp.broadcast_shapes(left.shape[:-2], right.shape[:-2], content.shape[:-2])
    left, right, content = (_in_heads(part, lead) for part in (left, right, content))
    scores = (*left.shape[:-1], right.shape[-2])
    given = jnp.tril(jnp.ones(scores[-2:], bool)) if is_causal else None if mask is None else plain(mask)
    if given is not None:
        shared = len(lead) == 2 or given.ndim == 2
        given = given.reshape((1,) * (4 - given.ndim) + given.shape) if shared else _in_heads(given, lead)
    factors = dropout(key, jnp.ones(scores, content.dtype), dropout_p) if dropout_p else None
    factor = 1 / math.sqrt(left.shape[-1]) if scale is None else scale
    outputs = compute.attention(left, right, content, given, factors, scale=factor)
    return tensor(outputs.reshape(*lead, *outputs.shape[-2:]))


def _in_heads(array: jax.Array, lead: tuple[int, ...]) -> jax.Array:
    """Array `[sample, head, row, column]` of `[..., row, column]` with the axes `lead`, of which the last is heads."""
    own = array.shape[-2:]
    return jnp.broadcast_to(array, (*lead, *own)).reshape(math.prod(lead[:-1]), *(lead[-1:] or (1,)), *own)


def _matmul(left: jax.Array, right: jax.Array) -> jax.Array:
    dtype = common_dtype((left, right))
    return left.astype(dtype) @ right.astype(dtype)


OPERATORS: dict[str, Callable[..., Any]] = {
    "addmm": in_order(_addmm),
    "baddbmm": in_order(_addmm),
    "bmm": in_order(_matmul),
    "dot": in_order(_matmul),
    "embedding": in_order(_embedding),
    "mm": in_order(_matmul),
    "mv": in_order(_matmul),
}
"""JAX functions by the names of PyTorch's operators."""

COMPUTED: dict[str, Callable[..., Any]] = {"linear": _linear}
"""The same for functions whose first argument is a `Compute`."""

COMPUTED_RANDOM: dict[str, Callable[..., Any]] = {"scaled_dot_product_attention": _attention}
"""The same for functions whose first arguments are a `Compute` and a random key."""
