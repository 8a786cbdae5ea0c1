import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmia.models.native.sgd import step
from tests.kernels import needs_kernels

pytestmark = needs_kernels

SHAPES = ((1,), (7, 5), (16, 3), (3, 3, 4, 33), ())
RATES, DECAYS = np.array([0.1, 0.3, 0.7]), np.array([0.0, 0.2, 0.5])
DECAYED = (False, True, True, False, True)


def arrays(seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=(3, *shape)).astype(np.float32) for shape in SHAPES]


def taken(weights, memory, gradients, active):
    take = jax.jit(lambda *trees: step(*trees, momentum=0.9, decayed=DECAYED), donate_argnums=(3, 4))
    scalars = jnp.asarray(RATES, jnp.float32), jnp.asarray(DECAYS, jnp.float32), jnp.asarray(active)
    return take(*scalars, *([jnp.array(array) for array in tree] for tree in (weights, memory, gradients)))


def test_steps_are_those_of_the_definition():
    """Three steps of three models with rates and decays of their own, the second of which stops after one."""
    weights, memory = arrays(0), arrays(1)
    exact = [(weight.astype(np.float64), kept.astype(np.float64)) for weight, kept in zip(weights, memory, strict=True)]
    for number in range(3):
        gradients, active = arrays(2 + number), np.array([True, number == 0, True])
        weights, memory = taken(weights, memory, gradients, active)
        for place, (weight, kept) in enumerate(exact):
            rate, decay, moves = (
                value.reshape(-1, *[1] * (weight.ndim - 1)) for value in (RATES, DECAYS * DECAYED[place], active)
            )
            slope = gradients[place] + decay * weight
            new = 0.9 * kept + slope
            exact[place] = np.where(moves, weight - rate * (slope + 0.9 * new), weight), np.where(moves, new, kept)
    for place, (weight, kept) in enumerate(exact):
        np.testing.assert_allclose(weights[place], weight, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(memory[place], kept, rtol=1e-5, atol=1e-5)


def test_a_model_that_does_not_step_keeps_every_bit():
    weights, memory = arrays(0), arrays(1)
    new_weights, new_memory = taken(weights, memory, arrays(2), np.array([True, False, True]))
    for before, after in zip((*weights, *memory), (*new_weights, *new_memory), strict=True):
        np.testing.assert_array_equal(after[1], before[1])
        assert (np.asarray(after[0]) != before[0]).all()


def test_weights_and_momentum_keep_their_memory():
    """Nothing is copied where they are given away."""
    shapes = [[jax.ShapeDtypeStruct((3, *shape), jnp.float32) for shape in SHAPES]] * 3
    scalars = [jax.ShapeDtypeStruct((3,), dtype) for dtype in (jnp.float32, jnp.float32, jnp.bool_)]
    take = jax.jit(lambda *trees: step(*trees, momentum=0.9, decayed=DECAYED), donate_argnums=(3, 4))
    assert "copy(" not in take.lower(*scalars, *shapes).compile().as_text()


def test_other_types_are_refused():
    scalars = jnp.ones(1), jnp.ones(1), jnp.ones(1, bool)
    halves = [jnp.ones((1, 2), jnp.bfloat16)]
    with pytest.raises(jax.errors.JaxRuntimeError, match="expected float32 weights, momentum and gradients"):
        jax.block_until_ready(step(*scalars, halves, halves, halves, momentum=0.9, decayed=[True]))
