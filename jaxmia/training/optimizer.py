"""The optimizer and the course of its learning rate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmia.config import Recipe


class Hyper(NamedTuple):
    """What may differ between the models of one ensemble: scalars for one model, `[model]` for all."""

    learning_rate: jax.Array | float
    weight_decay: jax.Array | float
    label_smoothing: jax.Array | float


def hyper_of(recipe: Recipe) -> Hyper:
    """The recipe's own values."""
    return Hyper(recipe.learning_rate, recipe.weight_decay, recipe.label_smoothing)


def init(recipe: Recipe, params: optax.Params) -> optax.OptState:
    """The optimizer's state before the first step."""
    return _memory(recipe).init(params)


def direction(
    recipe: Recipe, hyper: Hyper, gradients: optax.Updates, state: optax.OptState, params: optax.Params
) -> tuple[optax.Updates, optax.OptState]:
    """The direction of descent before the learning rate, and the optimizer's new state.

    SGD is PyTorch's: decay is added to the gradient, momentum is Nesterov's. AdamW decouples the decay.
    """
    mask = None if recipe.decay_norm_and_bias else _decayed
    decay = optax.add_decayed_weights(hyper.weight_decay, mask)  # type: ignore[arg-type]
    if recipe.optimizer == "adamw":
        moments, state = _memory(recipe).update(gradients, state, params)
        return decay.update(moments, decay.init(params), params)[0], state
    gradients, _ = decay.update(gradients, decay.init(params), params)
    velocity, state = _memory(recipe).update(gradients, state, params)
    return jax.tree.map(lambda slope, speed: slope + recipe.momentum * speed, gradients, velocity), state


def _memory(recipe: Recipe) -> optax.GradientTransformation:
    """What the optimizer remembers of earlier gradients."""
    if recipe.optimizer == "sgd":
        return optax.trace(recipe.momentum)
    return optax.scale_by_adam(b1=recipe.momentum)


def learning_rate(recipe: Recipe, peak: jax.Array | float, step: jax.Array, total: jax.Array) -> jax.Array:
    """Learning rate at `step` of `total`.

    It rises linearly over the warm-up; then `cosine` falls to 0 as (1 + cos(pi x)) / 2 over the rest, `piecewise`
    drops at each milestone (a share of the whole), `constant` stays.
    """
    step, total = jnp.asarray(step, jnp.float32), jnp.asarray(total, jnp.float32)
    warmup = total * (recipe.warmup_epochs / recipe.epochs)
    if recipe.schedule == "cosine":
        course = 0.5 * (1 + jnp.cos(jnp.pi * (step - warmup) / (total - warmup)))
    elif recipe.schedule == "piecewise":
        drops = sum((step >= share * total).astype(jnp.float32) for share in recipe.milestones)
        course = jnp.power(recipe.drop, drops)
    else:
        course = jnp.ones(())
    # A warm-up that ends between two steps would otherwise overshoot in its last.
    rise = jnp.minimum((step + 1) / jnp.maximum(warmup, 1), 1)
    return peak * jnp.where(step < warmup, rise, course)


def _decayed(params: optax.Params) -> optax.Params:
    """True for kernels; scales and biases of any layer are vectors."""
    return jax.tree.map(lambda value: value.ndim > 1, params)
