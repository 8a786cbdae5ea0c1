import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmia.models.norm import batch_normalise, ensemble_norm
from tests.kernels import needs_kernels

pytestmark = needs_kernels

each_type = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
each_activation = pytest.mark.parametrize(
    ("relu", "adds"), [(False, False), (True, False), (True, True)], ids=["alone", "relu", "shortcut and relu"]
)


def operands(shape: tuple[int, ...], adds: bool, dtype, offset: float = 3.0):
    """Inputs far from zero, a shortcut or None, scale and bias."""
    random = np.random.default_rng(0)
    inputs = random.normal(offset, 2, shape).astype(dtype)
    shortcut = random.normal(size=shape).astype(dtype) if adds else None
    per_model = (shape[0], shape[-1])
    scale, bias = (random.normal(size=per_model).astype(np.float32) for _ in range(2))
    return inputs, shortcut, scale, bias


def by_definition(inputs, shortcut, scale, bias, outputs, cotangents, relu: bool, epsilon: float = 1e-5):
    """Outputs, statistics and gradients in float64; the slope of the ReLU is that of the given outputs."""
    inputs, scale, bias, given = (np.asarray(value, np.float64) for value in (inputs, scale, bias, cotangents))
    axes = tuple(range(1, inputs.ndim - 1))
    count = np.prod([inputs.shape[axis] for axis in axes])
    wide = functools.partial(np.expand_dims, axis=axes)
    mean, var = inputs.mean(axes), inputs.var(axes)
    inverse = 1 / np.sqrt(var + epsilon)
    standard = (inputs - wide(mean)) * wide(inverse)
    expected = standard * wide(scale) + wide(bias)
    if shortcut is not None:
        expected = expected + np.asarray(shortcut, np.float64)
    if relu:
        expected, given = np.maximum(expected, 0), np.where(np.asarray(outputs, np.float64) > 0, given, 0)
    bias_slope, scale_slope = given.sum(axes), (given * standard).sum(axes)
    slopes = wide(scale * inverse) * (given - (wide(bias_slope) + standard * wide(scale_slope)) / count)
    return (expected, mean, var), (slopes, given if shortcut is not None else None, scale_slope, bias_slope)


def check(shape: tuple[int, ...], relu: bool, adds: bool, dtype) -> None:
    inputs, shortcut, scale, bias = operands(shape, adds, dtype)
    norm = functools.partial(ensemble_norm("native"), relu=relu, epsilon=1e-5)
    cotangents = np.random.default_rng(1).normal(size=shape).astype(dtype)

    @jax.jit
    def results_and_gradients(arguments, cotangents):
        results, pull = jax.vjp(jax.vmap(norm), *arguments)
        return results, pull((cotangents, *map(jnp.zeros_like, results[1:])))

    found = jax.device_get(results_and_gradients((inputs, shortcut, scale, bias), cotangents))
    outputs, mean, _ = found[0]
    expected = by_definition(inputs, shortcut, scale, bias, outputs, cotangents, relu)
    last_bit = 2.0**-8 if dtype == jnp.bfloat16 else 2.0**-18
    for ours, exact in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(
            np.asarray(ours, np.float64), exact, rtol=last_bit, atol=1e-5 * max(np.abs(exact).max(), 1)
        )
    assert outputs.dtype == found[1][0].dtype == dtype
    assert mean.dtype == found[1][2].dtype == jnp.float32


@each_activation
@each_type
@pytest.mark.parametrize("channels", [1, 16, 40])
def test_it_is_its_definition(channels: int, relu: bool, adds: bool, dtype):
    check((2, 9, 5, 6, channels), relu, adds, dtype)


@each_activation
@each_type
def test_of_random_shapes(relu: bool, adds: bool, dtype):
    @given(st.integers(1, 3), st.integers(4, 150), st.integers(1, 70))
    @settings(max_examples=15)
    def on(models: int, pixels: int, channels: int) -> None:
        check((models, pixels, channels), relu, adds, dtype)

    on()


@each_activation
def test_a_model_is_the_same_among_others(relu: bool, adds: bool):
    case = operands((3, 8, 4, 4, 16), adds, jnp.bfloat16)
    norm = functools.partial(ensemble_norm("native"), relu=relu, epsilon=1e-5)
    together = jax.vmap(norm)(*case)
    alone = norm(*jax.tree.map(lambda value: value[1], case))
    jax.tree.map(lambda many, one: np.testing.assert_array_equal(many[1], one), together, alone)


def test_a_shared_operand_is_spread_over_the_models():
    inputs, _, scale, bias = operands((3, 8, 4, 4, 5), False, jnp.float32)
    native, plain = (
        jax.vmap(functools.partial(norm, relu=True, epsilon=1e-5), (None, None, 0, 0))(inputs[0], None, scale, bias)
        for norm in (ensemble_norm("native"), batch_normalise)
    )
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5), native, plain)


def test_a_mean_far_from_zero_leaves_the_variance():
    inputs, _, scale, bias = operands((1, 4000, 3), False, jnp.float32, offset=1e4)
    _, _, var = jax.vmap(functools.partial(ensemble_norm("native"), relu=False, epsilon=1e-5))(
        inputs, None, scale, bias
    )
    np.testing.assert_allclose(var, np.asarray(inputs, np.float64).var(1), rtol=1e-4)


def test_a_shortcut_without_relu_is_refused():
    inputs, shortcut, scale, bias = operands((1, 8, 3), True, jnp.float32)
    with pytest.raises(ValueError, match="Expected a ReLU after the sum with a shortcut"):
        jax.vmap(functools.partial(ensemble_norm("native"), relu=False, epsilon=1e-5))(inputs, shortcut, scale, bias)
