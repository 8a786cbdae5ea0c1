"""Training of one model: initialisation, training step and logits as pure functions of arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import DTypeLike

from jaxmia.config import Recipe
from jaxmia.data.kinds import IMAGES, TOKENS, Kind, kind_of
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.errors import InputError
from jaxmia.models import NETWORKS, Compute, Network, TrainableNetwork
from jaxmia.models.network import cached_if_built_in
from jaxmia.models.small import Hidden
from jaxmia.training.devices import compute_dtype, device_memory
from jaxmia.training.optimizer import Hyper, Update, hyper_of, learning_rate, make_optimizer, update

State = dict[str, Any]
"""Pure dicts `params`, `stats` (batch statistics and other variables), `optimizer`, and `average` if weights are
averaged."""

INIT, AUGMENT, NOISE = 0, 1, 2
"""Numbers folded into a model's key for initial weights, augmentation and the network's random streams (dropout)."""


@dataclass(frozen=True)
class Trainer:
    """Training of one model; it holds no arrays.

    Attributes:
        network: Network to train.
        recipe: Recipe by which the network is trained.
        preprocessing: Preprocessing of images; only its normalisation is used, since the pool is already resized.
        compute: Types and convolution to compute with.
        dtype: Type of the pool's samples.
        update: Implementation of `update`, the optimizer's step.
    """

    network: TrainableNetwork
    recipe: Recipe
    preprocessing: Preprocessing
    compute: Compute = field(default_factory=Compute)
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.uint8))
    update: Update = update

    def init(self, key: jax.Array) -> State:
        """Initialises weights, batch statistics and optimizer state of the model with this key."""
        weights, stats = self.network.init(jax.random.fold_in(key, INIT), self.compute)
        state = {
            "params": weights,
            "stats": stats,
            "optimizer": make_optimizer(self.recipe, hyper_of(self.recipe), 0.0).init(weights),
        }
        if self.recipe.ema:
            state["average"] = weights
        return state

    def step(
        self,
        state: State,
        hyper: Hyper,
        key: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        index: jax.Array,
        step: jax.Array,
        total: jax.Array,
    ) -> tuple[State, dict[str, jax.Array]]:
        """Performs one training step on one batch; from step `total` on, the state stays unchanged.

        Args:
            state: State of the model.
            hyper: Hyperparameters of the model, scalars.
            key: Random key of the model.
            images: Images of the pool, `[sample, height, width, channel]`.
            labels: Labels of the pool, int `[sample]`.
            index: Sample indices of the batch, int `[batch]`.
            step: Number of the step, from 0.
            total: Number of steps of this model's training.

        Returns:
            The new state, and the batch's `loss` (in nats, with smoothed labels) and `accuracy` before the step.
        """
        batch = self._batch(jax.random.fold_in(jax.random.fold_in(key, AUGMENT), step), images, index)
        (loss, (logits, stats)), gradients = jax.value_and_grad(self.loss, has_aux=True)(
            state["params"],
            state["stats"],
            batch,
            labels[index],
            hyper.label_smoothing,
            jax.random.fold_in(jax.random.fold_in(key, NOISE), step),
        )
        rate = learning_rate(self.recipe, hyper.learning_rate, step, total)
        active = step < total
        params, memory = self.update(self.recipe, hyper, rate, active, gradients, state["optimizer"], state["params"])
        rest: State = {"stats": stats}
        if self.recipe.ema:
            rest["average"] = optax.incremental_update(params, state["average"], 1 - self.recipe.ema)
        before = {name: state[name] for name in rest}
        rest = jax.tree.map(lambda new, old: jnp.where(active, new, old), rest, before)
        return {"params": params, "optimizer": memory, **rest}, {
            "loss": loss,
            "accuracy": (logits.argmax(-1) == labels[index]).mean(dtype=jnp.float32),
        }

    def loss(
        self,
        params: State,
        stats: State,
        batch: jax.Array,
        labels: jax.Array,
        smoothing: jax.Array | float,
        key: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, State]]:
        """Mean cross-entropy in nats with label smoothing, in training mode; also logits and updated statistics."""
        logits, stats = self.network.apply(params, stats, batch, key, self.compute, train=True)
        smooth = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)  # type: ignore[arg-type]
        loss = optax.softmax_cross_entropy(logits, smooth).mean()
        return loss, (logits, stats)

    def logits(self, state: State, images: jax.Array) -> jax.Array:
        """Float32 logits `[sample, class]` of pool images in eval mode, with averaged weights if there are any."""
        params, batch = state.get("average", state["params"]), self.preprocessing.normalised(images, self.compute.dtype)
        return self.network.apply(params, state["stats"], batch, jax.random.key(0), self.compute, train=False)[0]

    def _batch(self, key: jax.Array, images: jax.Array, index: jax.Array) -> jax.Array:
        batch = kind_of(images).batch(key, images, index, self.recipe.augment)
        return self.preprocessing.normalised(batch, self.compute.dtype)


def network_of(recipe: Recipe, shape: tuple[int, ...], classes: int) -> Network:
    """Network of a recipe for samples of a shape."""
    width = recipe.width or NETWORKS["mlp"].width
    hidden = Hidden(recipe.hidden or (width, width), recipe.activation, recipe.norm, recipe.dropout)
    return Network(
        recipe.architecture,
        shape,
        classes,
        recipe.width,
        recipe.depth,
        hidden=hidden if recipe.architecture == "mlp" else None,
    )


def make_trainer(
    recipe: Recipe,
    shape: tuple[int, ...],
    classes: int,
    preprocessing: Preprocessing,
    symmetries: Sequence[str] = ("identity",),
    dtype: DTypeLike = np.uint8,
    network: TrainableNetwork | None = None,
) -> Trainer:
    """Makes the trainer of a recipe, with the precision that suits the first device.

    Args:
        recipe: Network and how it is trained.
        shape: Axes of a sample: height, width and channels of an image, or number of features.
        classes: Number of classes.
        preprocessing: Preprocessing of samples.
        symmetries: Symmetries in which samples will be queried.
        dtype: Type of the pool's samples.
        network: Network to train in place of the recipe's.

    Raises:
        InputError: Samples of this kind and shape cannot be augmented, viewed, normalised or taken by the network like
            this, or the network is too large for the device's memory.
    """
    one = jax.ShapeDtypeStruct((1, *shape), dtype)
    kind = kind_of(one)
    preprocessing.check(one)
    kind.check_augment(recipe.augment, shape)
    kind.check_views(symmetries, shape)
    device = jax.local_devices()[0]
    trainer = Trainer(
        network or fitting_network(recipe, shape, classes, kind),
        recipe,
        preprocessing,
        Compute(compute_dtype(recipe, device, kind)),
        np.dtype(dtype),
    )
    if network is None and (recipe.width or recipe.hidden):
        _refuse_too_large(trainer, device_memory(device))
    return trainer


@cached_if_built_in
def _initial_shapes(network: TrainableNetwork, compute: Compute) -> tuple[Any, Any]:
    """Shapes of the initial weights and statistics; a search makes a trainer for each of many recipes."""
    return jax.eval_shape(lambda key: network.init(key, compute), jax.random.key(0))


def _refuse_too_large(trainer: Trainer, available: int | None) -> None:
    """Refuses a network whose training cannot fit: XLA would end the process instead of raising an error."""
    weights, stats = _initial_shapes(trainer.network, trainer.compute)
    optimizer = jax.eval_shape(make_optimizer(trainer.recipe, hyper_of(trainer.recipe), 0.0).init, weights)
    copies = [weights] * (3 if trainer.recipe.ema else 2)  # the weights, their gradients, and their average
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((copies, stats, optimizer)))
    if available is not None and needed > available:
        field = "hidden" if trainer.recipe.hidden else "width"
        raise InputError(
            f"shadow.{field}: a model takes {needed / 2**30:,.1f} GiB for weights, gradients and optimizer, "
            f"available are {available / 2**30:,.1f} GiB; choose a smaller network"
        )


def fitting_network(recipe: Recipe, shape: tuple[int, ...], classes: int, kind: Kind) -> Network:
    """Network of a recipe for samples of a kind and a shape.

    Raises:
        InputError: The network does not take such samples, or it is the target's own, which is not known here.
    """
    if recipe.architecture == "target":
        raise InputError("shadow.architecture: target: the target's network is not given; see Target.shadow_network")
    network = network_of(recipe, shape, classes)
    if network.built_in and kind is not IMAGES and (network.convolutional or kind is TOKENS):
        raise InputError(
            f"shadow.architecture: {recipe.architecture} does not take {kind.name}; allowed are "
            f"{'' if kind is TOKENS else 'mlp, '}target and networks of your own (package.module:factory)"
        )
    network.check(jnp.int32 if kind is TOKENS else jnp.float32)
    return network
