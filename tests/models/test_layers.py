import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmia.models.norm import add_relu


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_adding_and_rectifying_in_one_has_the_values_and_gradients_of_both(rng: np.random.Generator, dtype: jnp.dtype):
    left, right, pulled = (jnp.asarray(rng.normal(size=(3, 50)), dtype) for _ in range(3))
    left = left.at[:, :10].set(-right[:, :10])  # sums of exactly zero
    results, pull = jax.vjp(add_relu, left, right)
    expected, pull_expected = jax.vjp(lambda one, other: jax.nn.relu(one + other), left, right)
    np.testing.assert_array_equal(results, expected)
    assert results.dtype == dtype
    for found, gradient in zip(pull(pulled), pull_expected(pulled), strict=True):
        np.testing.assert_array_equal(found, gradient)
