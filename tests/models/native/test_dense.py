import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmia.models.dense import dense, ensemble_dense
from jaxmia.models.native import build
from tests.kernels import needs_kernels

pytestmark = needs_kernels

each_type = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])


def operands(samples: int, inputs: int, units: int, biased: bool, dtype, models: int = 3):
    """Inputs, float32 weights and bias, or None, and cotangents."""
    random = np.random.default_rng(0)
    bias = random.normal(size=(models, units)).astype(np.float32) if biased else None
    return (
        random.normal(size=(models, samples, inputs)).astype(dtype),
        random.normal(size=(models, inputs, units)).astype(np.float32),
        bias,
        random.normal(size=(models, samples, units)).astype(dtype),
    )


def by_definition(inputs, weights, bias, cotangents, outputs, relu: bool):
    """Outputs and gradients in float64; the slope of the ReLU is that of the given outputs."""
    left, slope = np.asarray(inputs, np.float64), np.asarray(cotangents, np.float64)
    # The kernels round weights to the type in which they compute.
    right = np.asarray(weights.astype(build.compute_type(inputs.dtype)), np.float64)
    expected = left @ right + (0 if bias is None else np.asarray(bias, np.float64)[:, None])
    if relu:
        expected, slope = np.maximum(expected, 0), np.where(np.asarray(outputs, np.float64) > 0, slope, 0)
    slopes = slope @ right.swapaxes(1, 2), left.swapaxes(1, 2) @ slope, None if bias is None else slope.sum(1)
    return expected, slopes


def agree(found, exact, dtype) -> None:
    """Allows for the rounding of results of `dtype`, and of sums in float32."""
    last_bit = 2.0**-8 if dtype == jnp.bfloat16 else 2.0**-20
    assert found.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(found, np.float64), exact, rtol=last_bit, atol=2.0**-18 * np.abs(exact).max(initial=1)
    )


def check(samples: int, inputs: int, units: int, relu: bool, biased: bool, dtype) -> None:
    *arguments, cotangents = operands(samples, inputs, units, biased, dtype)
    layer = functools.partial(ensemble_dense("native"), relu=relu)

    @jax.jit
    def all_and_one(arguments, cotangents):
        outputs, pull = jax.vjp(jax.vmap(layer), *arguments)
        solo, pull_solo = jax.vjp(layer, *jax.tree.map(lambda value: value[1], arguments))
        return (outputs, pull(cotangents)), (solo, pull_solo(cotangents[1]))

    (outputs, found), alone = jax.device_get(all_and_one(arguments, cotangents))
    expected, slopes = by_definition(*arguments, cotangents, outputs, relu)
    agree(outputs, expected, dtype)
    agree(found[0], slopes[0], dtype)
    agree(found[1], slopes[1], jnp.float32)
    if biased:
        agree(found[2], slopes[2], jnp.float32)
    # Alone, a model gets the very same numbers.
    for one, all_models in zip(jax.tree.leaves(alone), jax.tree.leaves((outputs, found)), strict=True):
        np.testing.assert_array_equal(one, all_models[1])


@each_type
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("samples", "inputs", "units"),
    [(1, 1, 1), (7, 5, 10), (64, 33, 40), (33, 64, 256), (64, 450, 30), (25, 16, 32), (26, 97, 17)],
)
def test_outputs_and_gradients(samples: int, inputs: int, units: int, relu: bool, dtype):
    check(samples, inputs, units, relu, True, dtype)


@each_type
@pytest.mark.parametrize(("samples", "inputs", "units"), [(0, 4, 5), (3, 0, 5), (3, 4, 0)])
def test_sums_over_nothing(samples: int, inputs: int, units: int, dtype):
    *arguments, cotangents = operands(samples, inputs, units, True, dtype)
    outputs, pull = jax.vjp(jax.vmap(functools.partial(ensemble_dense("native"), relu=False)), *arguments)
    exact, slopes = by_definition(*arguments, cotangents, outputs, False)
    agree(outputs, exact, dtype)
    for found, expected, of in zip(pull(cotangents), slopes, arguments, strict=True):
        agree(found, expected, of.dtype)


@each_type
def test_random_shapes(dtype):
    size = st.integers(1, 70)

    @given(samples=size, inputs=size, units=size, relu=st.booleans(), biased=st.booleans())
    @settings(max_examples=40)
    def on(**shape) -> None:
        check(**shape, dtype=dtype)

    on()


@each_type
def test_the_gradient_with_respect_to_images_is_not_computed(dtype):
    inputs, weights, bias, cotangents = operands(9, 20, 30, True, dtype)

    def loss(weights, bias):
        outputs = jax.vmap(ensemble_dense("native"))(inputs, weights, bias)
        return (outputs * cotangents).sum(dtype=jnp.float32)

    lowered = jax.jit(jax.grad(loss, (0, 1))).lower(weights, bias).as_text()
    (call,) = (line for line in lowered.splitlines() if "@jaxmia_dense_backward" in line)
    assert "tensor<0x" in call.partition("->")[2]
    _, slopes = by_definition(inputs, weights, bias, cotangents, None, False)
    for found, exact in zip(jax.grad(loss, (0, 1))(weights, bias), slopes[1:], strict=True):
        agree(found, exact, jnp.float32)


def test_an_output_that_nothing_depends_on_has_no_gradient():
    inputs, weights, bias, _ = operands(3, 4, 5, True, jnp.float32)
    slopes = jax.grad(lambda weights: (jax.vmap(ensemble_dense("native"))(inputs, weights, bias), weights.sum())[1])
    np.testing.assert_array_equal(slopes(weights), jnp.ones_like(weights))


def test_what_is_not_a_number_stays_so_through_the_relu():
    inputs, weights, bias, _ = operands(3, 4, 5, True, jnp.float32)
    inputs[0, 1, 2] = np.nan
    outputs = np.asarray(jax.vmap(functools.partial(ensemble_dense("native"), relu=True))(inputs, weights, bias))
    assert np.isnan(outputs[0, 1]).all()
    assert np.isfinite(outputs[1:]).all()


@each_type
@pytest.mark.parametrize("relu", [False, True])
def test_the_same_as_the_layer_that_xla_computes(relu: bool, dtype):
    inputs, weights, bias, _ = (value[0] for value in operands(20, 30, 40, True, dtype))
    weights = weights.astype(dtype).astype(np.float32)  # as XLA rounds them, on every processor
    ours = ensemble_dense("native")(inputs, weights, bias, relu=relu)
    assert ours.dtype == dtype
    bit = 2.0**-7 if dtype == jnp.bfloat16 else 1e-6
    np.testing.assert_allclose(
        np.asarray(ours, np.float32),
        np.asarray(dense(inputs, weights, bias, relu=relu), np.float32),
        rtol=bit,
        atol=0.1 * bit**0.5,
    )


def test_other_products_than_of_two_matrices_are_refused():
    with pytest.raises(ValueError, match=r"Expected a product of two matrices, got shapes \(2, 2, 2\) and \(2, 2\)"):
        ensemble_dense("native")(jnp.ones((2, 2, 2)), jnp.ones((2, 2)), None)


def test_without_the_instruction_bfloat16_is_computed_as_float32(monkeypatch):
    monkeypatch.setattr(build, "multiplies_bfloat16", lambda: False)
    inputs, weights, bias, _ = operands(5, 6, 7, True, jnp.bfloat16)
    outputs = jax.vmap(ensemble_dense("native"))(inputs, weights, bias)
    exact = np.asarray(inputs, np.float64) @ np.asarray(weights, np.float64) + np.asarray(bias, np.float64)[:, None]
    agree(outputs, exact, jnp.bfloat16)
