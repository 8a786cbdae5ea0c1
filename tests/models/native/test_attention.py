import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmia.models.attention import attention, ensemble_attention
from tests.kernels import needs_kernels

pytestmark = needs_kernels

MODELS, SAMPLES, HEADS, SCALE = 2, 3, 2, 0.4


def operands(queries: int, keys: int, channels: int, units: int) -> list[np.ndarray]:
    """Queries, keys, values and cotangents."""
    random = np.random.default_rng(queries)
    sizes = (queries, channels), (keys, channels), (keys, units), (queries, units)
    return [random.normal(size=(MODELS, SAMPLES, HEADS, *size)).astype(np.float32) for size in sizes]


def masks(kind: str, queries: int, keys: int) -> tuple[Any, Any]:
    """Mask and factors of the shares."""
    random = np.random.default_rng(1)
    allowed = random.random((MODELS, SAMPLES, HEADS, queries, keys)) < 0.6
    if kind == "dropout":
        return None, allowed / np.float32(0.6)
    if kind == "by sample":
        return allowed[:, :, :1], None
    if kind == "by head, with dropout":
        return allowed[:, :1], allowed / np.float32(0.6)
    if kind == "nothing allowed":
        allowed[:, 0, :, queries // 2] = False
        return allowed, None
    return None, None


def by_definition(left, right, content, cotangents, allowed, factors) -> tuple[np.ndarray, ...]:
    """Outputs and gradients in float64."""
    left, right, content, cotangents = (np.asarray(part, np.float64) for part in (left, right, content, cotangents))
    scores = SCALE * left @ right.swapaxes(-1, -2)
    powers = np.exp(scores) * (1.0 if allowed is None else allowed)
    total = powers.sum(-1, keepdims=True)
    shares = powers / np.where(total == 0, 1, total)
    kept = np.float64(1) if factors is None else np.asarray(factors, np.float64)
    slopes = cotangents @ content.swapaxes(-1, -2) * kept
    slopes = SCALE * shares * (slopes - (shares * slopes).sum(-1, keepdims=True))
    return (
        shares * kept @ content,
        slopes @ right,
        slopes.swapaxes(-1, -2) @ left,
        (shares * kept).swapaxes(-1, -2) @ cotangents,
    )


def check(sizes: tuple[int, int, int, int], kind: str) -> None:
    *arguments, cotangents = operands(*sizes)
    allowed, factors = masks(kind, *sizes[:2])
    attend = functools.partial(ensemble_attention("native"), scale=SCALE)

    @jax.jit
    def all_and_one(arguments, cotangents, allowed, factors):
        def gradients(attend, arguments, cotangents, *given):
            outputs, pull = jax.vjp(lambda *parts: attend(*parts, *given), *arguments)
            return outputs, *pull(cotangents)

        together = gradients(jax.vmap(attend), arguments, cotangents, allowed, factors)
        first = jax.tree.map(lambda value: value[0], (arguments, cotangents, allowed, factors))
        return together, gradients(attend, *first)

    together, alone = jax.device_get(all_and_one(arguments, cotangents, allowed, factors))
    for found, exact in zip(together, by_definition(*arguments, cotangents, allowed, factors), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, exact, rtol=2e-6, atol=4e-6 * max(np.abs(exact).max(), 1))
    # Alone, a model gets the very same numbers.
    for one, many in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, many[0])


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (17, 17, 4, 4), (5, 40, 33, 7), (33, 20, 16, 40), (70, 65, 64, 64)], ids=str
)
def test_outputs_and_gradients(sizes: tuple[int, int, int, int]):
    check(sizes, "")


@pytest.mark.parametrize("kind", ["dropout", "by sample", "by head, with dropout", "nothing allowed"])
def test_masks_and_dropout(kind: str):
    check((35, 19, 8, 5), kind)


def test_large_scores_and_no_numbers():
    queries, keys, values, _ = operands(4, 6, 3, 3)
    queries *= 1e4
    queries[0, 0, 0, 0] = np.nan
    outputs = np.array(jax.vmap(functools.partial(ensemble_attention("native"), scale=1.0))(queries, keys, values))
    assert np.isnan(outputs[0, 0, 0, 0]).all()
    best = (queries @ keys.swapaxes(-1, -2)).argmax(-1)
    chosen = np.take_along_axis(values, best[..., None], -2)
    outputs[0, 0, 0, 0] = chosen[0, 0, 0, 0] = 0
    np.testing.assert_allclose(outputs, chosen, rtol=1e-5)


def test_a_summand_of_the_scores():
    *arguments, _ = operands(5, 6, 3, 3)
    bias = np.random.default_rng(2).normal(size=(MODELS, 1, HEADS, 5, 6)).astype(np.float32)

    def slopes(attend):
        def total(*operands):
            return jnp.square(jax.vmap(functools.partial(attend, scale=SCALE))(*operands)).sum()

        return jax.grad(total, argnums=range(4))(*arguments, bias)

    for found, expected in zip(slopes(ensemble_attention("native")), slopes(attention), strict=True):
        assert np.abs(found).max() > 0.01
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
