import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxmia.config import Recipe
from jaxmia.training.optimizer import hyper_of, learning_rate, make_optimizer

SHAPES = {"kernel": (4, 3), "bias": (3,)}
STEPS = 12


def draws() -> list[dict[str, np.ndarray]]:
    """Weights, then one gradient a step."""
    rng = np.random.default_rng(0)
    return [
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(STEPS + 1)
    ]


def ours(recipe: Recipe) -> dict[str, np.ndarray]:
    params, *gradients = draws()
    state = make_optimizer(recipe, hyper_of(recipe), 0.0).init(params)
    for step, gradient in enumerate(gradients):
        rate = learning_rate(recipe, recipe.learning_rate, jnp.asarray(step), jnp.asarray(STEPS))
        updates, state = make_optimizer(recipe, hyper_of(recipe), rate).update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return {name: np.asarray(value) for name, value in params.items()}  # type: ignore[union-attr]


def theirs(optimizer, scheduler) -> dict[str, np.ndarray]:
    params, *gradients = draws()
    weights = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in params.items()}
    torch_optimizer = optimizer(weights)
    schedule = scheduler(torch_optimizer)
    for gradient in gradients:
        for name, weight in weights.items():
            weight.grad = torch.from_numpy(gradient[name].copy())
        torch_optimizer.step()
        schedule.step()
    return {name: weight.detach().numpy() for name, weight in weights.items()}


def groups(weights: dict[str, torch.nn.Parameter], decay: float, everything: bool) -> list[dict]:
    return [{"params": [w], "weight_decay": decay if everything or w.ndim > 1 else 0.0} for w in weights.values()]


SCHEDULES = {
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
    "piecewise": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 9], gamma=0.1),
    "constant": lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("everything", [False, True])
def test_sgd_is_pytorchs_nesterov(schedule: str, everything: bool):
    recipe = Recipe(
        optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.05, schedule=schedule,  # type: ignore[arg-type]
        decay_norm_and_bias=everything,
    )  # fmt: skip
    expected = theirs(
        lambda weights: torch.optim.SGD(groups(weights, 0.05, everything), lr=0.1, momentum=0.9, nesterov=True),
        SCHEDULES[schedule],
    )
    for name, value in ours(recipe).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("everything", [False, True])
def test_adamw_is_pytorchs(schedule: str, everything: bool):
    recipe = Recipe(
        optimizer="adamw", learning_rate=0.01, momentum=0.9, weight_decay=0.3, schedule=schedule,  # type: ignore[arg-type]
        decay_norm_and_bias=everything,
    )  # fmt: skip
    expected = theirs(
        lambda weights: torch.optim.AdamW(groups(weights, 0.3, everything), lr=0.01, betas=(0.9, 0.999)),
        SCHEDULES[schedule],
    )
    for name, value in ours(recipe).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)
