import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmia.config import Recipe
from jaxmia.training.optimizer import Hyper, ensemble_update, hyper_of, learning_rate, make_optimizer
from tests.kernels import needs_kernels


def course(total: int, **recipe) -> list[float]:
    shadow = Recipe(learning_rate=0.5, epochs=10, **recipe)
    return [float(learning_rate(shadow, 0.5, jnp.asarray(step), jnp.asarray(total))) for step in range(total)]


def test_cosine_is_its_closed_form():
    expected = [0.25 * (1 + math.cos(math.pi * step / 40)) for step in range(40)]
    np.testing.assert_allclose(course(40, schedule="cosine"), expected, rtol=1e-5, atol=1e-7)


def test_cosine_with_warm_up_rises_and_then_falls_over_the_rest():
    """Three of ten epochs, four steps each: 12 steps up, 28 down."""
    found = course(40, schedule="cosine", warmup_epochs=3)
    np.testing.assert_allclose(found[:12], [0.5 * (step + 1) / 12 for step in range(12)], rtol=1e-5)
    expected = [0.25 * (1 + math.cos(math.pi * step / 28)) for step in range(28)]
    np.testing.assert_allclose(found[12:], expected, rtol=1e-5, atol=1e-7)


def test_piecewise_drops_at_its_milestones():
    found = course(40, schedule="piecewise", milestones=(0.5, 0.75), drop=0.2)
    np.testing.assert_allclose(found, [0.5] * 20 + [0.1] * 10 + [0.02] * 10, rtol=1e-6)
    assert course(10, schedule="piecewise", milestones=()) == [0.5] * 10


def test_constant_is_constant_after_the_warm_up():
    assert course(20, schedule="constant") == [0.5] * 20
    np.testing.assert_allclose(course(20, schedule="constant", warmup_epochs=1)[:3], [0.25, 0.5, 0.5])


@pytest.mark.parametrize("total", [7, 23, 275, 3300])
@pytest.mark.parametrize("warmup", [0.3, 1.7, 5, 9.99])
def test_a_warm_up_that_ends_between_two_steps_never_overshoots(total: int, warmup: float):
    steps = sorted({0, *range(max(0, int(total * warmup / 10) - 3), min(total, int(total * warmup / 10) + 4))})
    shadow = Recipe(learning_rate=0.5, epochs=10, warmup_epochs=warmup)
    rates = [float(learning_rate(shadow, 0.5, jnp.asarray(step), jnp.asarray(total))) for step in steps]
    assert max(rates) <= 0.5
    assert min(rates) > 0


def run(recipe: Recipe, params: dict, gradients: list[dict], rate: float) -> dict:
    optimizer = make_optimizer(recipe, hyper_of(recipe), rate)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def setting(rng: np.random.Generator) -> tuple[dict, list[dict]]:
    shapes = {"kernel": (3, 4), "bias": (4,), "scale": (4,)}
    draws = [{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(6)]
    return draws[0], draws[1:]


@pytest.mark.parametrize("everything", [False, True])
def test_sgd_is_nesterov_with_decay_in_the_gradient(rng: np.random.Generator, everything: bool):
    """v = m v + g + w p;  p = p - rate (g + w p + m v), in a float64 loop; vectors decay only if asked."""
    params, gradients = setting(rng)
    recipe = Recipe(optimizer="sgd", momentum=0.8, weight_decay=0.1, decay_norm_and_bias=everything)
    found = run(recipe, params, gradients, 0.05)
    for name, start in params.items():
        decay = 0.1 if everything or name == "kernel" else 0
        value, velocity = start.astype(np.float64), 0.0
        for gradient in gradients:
            slope = gradient[name] + decay * value
            velocity = 0.8 * velocity + slope
            value = value - 0.05 * (slope + 0.8 * velocity)
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def test_sgd_rounds_as_its_formula_in_float32(rng: np.random.Generator):
    """Each product and sum is rounded once and in this order, so that runs of earlier versions are reproduced."""
    params, gradients = setting(rng)
    recipe = Recipe(optimizer="sgd", momentum=0.8, weight_decay=0.1)
    found = run(recipe, params, gradients, 0.05)
    momentum, decay, rate = np.float32(0.8), np.float32(0.1), np.float32(0.05)
    value, velocity = params["kernel"], np.zeros_like(params["kernel"])
    for gradient in gradients:
        slope = gradient["kernel"] + decay * value
        velocity = slope + momentum * velocity
        value = value - rate * (slope + momentum * velocity)
    np.testing.assert_array_equal(found["kernel"], value)


@pytest.mark.parametrize("everything", [False, True])
def test_adamw_decouples_its_decay(rng: np.random.Generator, everything: bool):
    params, gradients = setting(rng)
    recipe = Recipe(optimizer="adamw", momentum=0.85, weight_decay=0.1, decay_norm_and_bias=everything)
    found = run(recipe, params, gradients, 0.05)
    for name, start in params.items():
        decay = 0.1 if everything or name == "kernel" else 0
        value, first, second = start.astype(np.float64), 0.0, 0.0
        for step, gradient in enumerate(gradients, start=1):
            slope = gradient[name].astype(np.float64)
            first, second = 0.85 * first + 0.15 * slope, 0.999 * second + 0.001 * slope**2
            adam = first / (1 - 0.85**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            value = value - 0.05 * (adam + decay * value)
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def test_hyper_holds_what_the_recipe_says():
    recipe = Recipe(learning_rate=0.3, weight_decay=0.02, label_smoothing=0.1)
    assert hyper_of(recipe) == Hyper(learning_rate=0.3, weight_decay=0.02, label_smoothing=0.1)


@needs_kernels
@pytest.mark.parametrize(
    "settings",
    [{}, {"decay_norm_and_bias": True}, {"momentum": 0.0}, {"optimizer": "adamw"}],
    ids=["sgd", "all decay", "no momentum", "adamw"],
)
def test_the_kernels_take_the_same_steps(rng: np.random.Generator, settings: dict):
    """Three models with hyperparameters of their own, the last of which has finished."""
    recipe = Recipe(weight_decay=0.1, **settings)
    hyper = Hyper(jnp.array([0.1, 0.2, 0.3]), jnp.array([0.0, 0.1, 0.2]), jnp.zeros(3))
    active = jnp.array([True, True, False])

    def tree() -> dict:
        return {
            "fc": {"kernel": jnp.asarray(rng.normal(size=(3, 5, 7)), jnp.float32)},
            "bias": jnp.asarray(rng.normal(size=(3, 40)), jnp.float32),
        }

    start, gradients = tree(), [tree() for _ in range(3)]
    results = []
    for lowering in ("native", "unrolled"):
        step = jax.vmap(functools.partial(ensemble_update(lowering), recipe))
        params = start
        memory = jax.vmap(make_optimizer(recipe, hyper_of(recipe), 0.0).init)(params)
        for gradient in gradients:
            params, memory = jax.jit(step)(hyper, hyper.learning_rate, active, gradient, memory, params)
        results.append((params, memory))
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    for ours, expected in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(results[0][0]["bias"][2], start["bias"][2])


@needs_kernels
def test_weights_of_other_types_are_left_to_optax():
    recipe, params = Recipe(), {"kernel": jnp.ones((4, 4), jnp.bfloat16)}
    memory = make_optimizer(recipe, hyper_of(recipe), 0.0).init(params)
    new, _ = ensemble_update("native")(recipe, hyper_of(recipe), 0.5, jnp.array(True), params, memory, params)
    assert new["kernel"].dtype == jnp.bfloat16
    assert (new["kernel"] < 1).all()
