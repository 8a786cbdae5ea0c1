"""The tests' own settings hold."""

import jax.numpy as jnp
import pytest


@pytest.mark.usefixtures("strict_promotion")
def test_jax_promotes_no_type_and_no_rank_unasked():
    with pytest.raises(ValueError, match="no available implicit dtype promotion"):
        jnp.ones(2, jnp.float32) * jnp.ones(2, jnp.bfloat16)
    with pytest.raises(ValueError, match="numpy_rank_promotion"):
        jnp.ones((2, 2)) * jnp.ones(2)
