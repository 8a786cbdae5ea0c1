"""Optimizer and learning rate schedule."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmia.config import Lowering, Recipe
from jaxmia.models.native import sgd
from jaxmia.models.native.over_models import over_models


class Hyper(NamedTuple):
    """Hyperparameters that may differ between the models of an ensemble: scalars for one model, `[model]` for all."""

    learning_rate: jax.Array | float
    weight_decay: jax.Array | float
    label_smoothing: jax.Array | float


def hyper_of(recipe: Recipe) -> Hyper:
    """Hyperparameters of a recipe."""
    return Hyper(recipe.learning_rate, recipe.weight_decay, recipe.label_smoothing)


def hyper_of_each(recipes: Sequence[Recipe]) -> Hyper:
    """Hyperparameters of the recipe of each model, float32 `[model]`."""
    return Hyper(*(np.array(values, np.float32) for values in zip(*map(hyper_of, recipes), strict=True)))  # type: ignore[arg-type]


def make_optimizer(recipe: Recipe, hyper: Hyper, rate: jax.Array | float) -> optax.GradientTransformation:
    """Returns the recipe's optimizer for one step at a given learning rate; its state does not depend on that rate.

    SGD follows PyTorch: weight decay is added to the gradient, and momentum is Nesterov's. AdamW decouples the decay.

    Args:
        recipe: Recipe that names the optimizer, its momentum and the parameters to decay.
        hyper: Hyperparameters of the model; they may be traced.
        rate: Learning rate of the step; it may be traced.
    """
    mask = None if recipe.decay_norm_and_bias else _decayed
    decay = optax.add_decayed_weights(hyper.weight_decay, mask)  # type: ignore[arg-type]
    if recipe.optimizer == "adamw":
        return optax.chain(optax.scale_by_adam(b1=recipe.momentum), decay, optax.scale(-rate))
    return optax.chain(decay, optax.trace(recipe.momentum, nesterov=True), optax.scale(-rate))


Update = Callable[..., tuple[Any, Any]]
"""`update` or another implementation of it."""


def update(
    recipe: Recipe,
    hyper: Hyper,
    rate: jax.Array | float,
    active: jax.Array,
    gradients: Any,
    memory: Any,
    params: Any,
) -> tuple[Any, Any]:
    """Takes one step of the recipe's optimizer; returns new weights and optimizer state.

    Args:
        recipe: Recipe that names the optimizer.
        hyper: Hyperparameters of the model.
        rate: Learning rate of the step.
        active: Whether the step is taken; otherwise weights and state stay as they are.
        gradients: Gradients, a tree like that of the weights.
        memory: State of the optimizer.
        params: Weights.
    """
    updates, new_memory = make_optimizer(recipe, hyper, rate).update(gradients, memory, params)
    new = optax.apply_updates(params, updates), new_memory
    return jax.tree.map(lambda after, before: jnp.where(active, after, before), new, (params, memory))


def ensemble_update(lowering: Lowering) -> Update:
    """Returns `update`, which for SGD is one call of this package's C++ kernels under the lowering `native`."""
    return _native_update if lowering == "native" else update


def _native_update(
    recipe: Recipe,
    hyper: Hyper,
    rate: jax.Array | float,
    active: jax.Array,
    gradients: Any,
    memory: Any,
    params: Any,
) -> tuple[Any, Any]:
    weights, structure = jax.tree.flatten(params)
    if recipe.optimizer != "sgd" or any(array.dtype != jnp.float32 for array in weights):
        return update(recipe, hyper, rate, active, gradients, memory, params)
    # The only arrays in the state of SGD are the momentum of each weight.
    momentum, state = jax.tree.flatten(memory)
    decayed = [recipe.decay_norm_and_bias or decays for decays in jax.tree.leaves(_decayed(params))]
    step = over_models(functools.partial(sgd.step, momentum=recipe.momentum, decayed=decayed))
    scalars = jnp.float32(rate), jnp.float32(hyper.weight_decay)
    weights, momentum = step(*scalars, active, weights, momentum, jax.tree.leaves(gradients))
    return jax.tree.unflatten(structure, weights), jax.tree.unflatten(state, momentum)


def learning_rate(recipe: Recipe, peak: jax.Array | float, step: jax.Array, total: jax.Array) -> jax.Array:
    """Learning rate at `step` of `total`.

    It rises linearly during the warm-up. Then `cosine` decays to 0 as (1 + cos(pi x)) / 2, `piecewise` drops at each
    milestone (a fraction of the whole training), and `constant` stays at the peak.
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
    # Otherwise a warm-up that ends between two steps would overshoot in its last step.
    rise = jnp.minimum((step + 1) / jnp.maximum(warmup, 1), 1)
    return peak * jnp.where(step < warmup, rise, course)


def _decayed(params: optax.Params) -> optax.Params:
    """Mask of the parameters to decay: kernels, but not scales and biases, which are vectors in every layer."""
    return jax.tree.map(lambda value: value.ndim > 1, params)
