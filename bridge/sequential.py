"""Shadow models trained in PyTorch, one after another, for networks that JAX cannot compute.

They use the same masks, batches, augmentation, initial weights and schedule as in JAX. Their state is a tree of arrays
as well, so that the code around the training is the same for both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from bridge.bound import Bound, as_array, copied, tensors_of, write_back
from bridge.graph.convert import in_torch
from bridge.graph.initial import Draw
from bridge.graph.program import example_of
from bridge.trainer import learning_rate, make_optimizer, train_step
from jaxmia.config import Recipe
from jaxmia.data.kinds import kind_of
from jaxmia.data.views import View
from jaxmia.errors import InputError, one_line
from jaxmia.models import Compute
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.margin import logit_margin
from jaxmia.training.optimizer import Hyper
from jaxmia.training.plan import Plan
from jaxmia.training.trainer import AUGMENT, INIT, NOISE, State, Trainer

_SAMPLES = 3
"""Number of samples in the batch on which a network is tested."""

Modes = Callable[[bool], nn.Module]
"""Function from a mode (True for training) to its module; both have parameters and buffers of the same names."""


@dataclass(frozen=True, eq=False)
class SequentialNetwork:
    """A classifier that is trained in PyTorch; created and checked by `sequential_network`.

    Attributes:
        source: Origin of the network, for messages.
        shape: Shape of a sample in a pool; `(height, width, channel)` for images.
        classes: Number of logits.
        modes: Modules for training and evaluation.
        draw: Draws initial weights.
        digest: Digest of what the network computes.
    """

    source: str
    shape: tuple[int, ...]
    classes: int
    modes: Modes
    draw: Draw
    digest: str

    convolutional = False
    dense = False

    @cached_property
    def device(self) -> torch.device:
        """Device on which the network is trained."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def framework(self) -> str:
        """Name of the framework and its device."""
        return f"PyTorch on {self.device.type}"

    def describe(self) -> dict[str, Any]:
        """Digest of what the network computes, and the framework that trains it."""
        return {"backend": "torch", "digest": self.digest}

    def init(self, key: jax.Array, compute: Compute | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draws initial weights and statistics, which depend only on the key."""
        del compute
        values = self.draw(int(jax.random.bits(key, (), jnp.uint32)))
        module = self.modes(True)
        trained = {name for name, value in module.named_parameters() if value.requires_grad}
        arrays = {name: as_array(values.get(name, value)) for name, value in tensors_of(module).items()}
        return (
            {name: array for name, array in arrays.items() if name in trained},
            {name: array for name, array in arrays.items() if name not in trained},
        )

    def apply(self, *arguments: Any, **options: Any) -> NoReturn:
        """Always raises, since JAX cannot compute the network; `ensemble` trains and queries it."""
        raise TypeError(f"{self.source}: PyTorch computes this network, not JAX")

    def ensemble(
        self, trainer: Trainer, plan: Plan, seed: int, images: np.ndarray, labels: np.ndarray
    ) -> "SequentialEnsemble":
        """Creates the ensemble that trains the network."""
        return SequentialEnsemble(self, trainer, plan, seed, images, labels)


def sequential_network(
    modes: Modes, draw: Draw, shape: tuple[int, ...], digest: str, *, source: str, integers: bool
) -> SequentialNetwork:
    """Creates a network that is trained in PyTorch, after testing it on a batch in both modes.

    Args:
        modes: Modules for training and evaluation.
        draw: Draws initial weights.
        shape: Shape of a sample in a pool; `(height, width, channel)` for images.
        digest: Digest of what the network computes.
        source: Origin of the network, for messages.
        integers: Whether samples are token ids.

    Raises:
        InputError: The network fails on such samples, does not return logits, or creates or reshapes buffers.
    """
    batch = example_of(in_torch(shape), torch.int64 if integers else torch.float32, _SAMPLES)
    try:
        tried = copied(modes(True))
        before = _shapes(tried)
        with torch.random.fork_rng(devices=[]):
            tried(batch).sum().backward()
        with torch.no_grad():
            logits = copied(modes(False))(batch)
    except Exception as error:  # the user's own code, which can raise anything
        raise InputError(f"{source}: cannot train on samples of {shape}: {one_line(error)}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != _SAMPLES:
        given = list(getattr(logits, "shape", []))
        raise InputError(f"{source}: gives {given} for {_SAMPLES} samples, expected logits [sample, class]")
    if changed := sorted({name for name, _ in before ^ _shapes(tried)}):
        raise InputError(f"{source}: buffers have another shape after training on a batch: {', '.join(changed)}")
    return SequentialNetwork(source, shape, logits.shape[1], modes, draw, digest)


class SequentialEnsemble(Ensemble):
    """Models that PyTorch trains one after another; their state is NumPy arrays with a leading model axis.

    Random numbers depend only on the model and the step, so that interruptions do not change the result.

    Args:
        network: Network to train.
        trainer: Trainer of one model.
        plan: Plan by which the models are trained.
        seed: Seed of the run.
        images: Samples of the pool.
        labels: Labels of the pool, int `[sample]`.
    """

    def __init__(
        self,
        network: SequentialNetwork,
        trainer: Trainer,
        plan: Plan,
        seed: int,
        images: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        super().__init__(trainer, plan, seed, images, labels)
        self._network = network
        self._recipe = trainer.recipe.model_copy(update={"precision": str(trainer.compute.dtype)})
        self._targets = torch.tensor(labels, dtype=torch.long)
        self._trained, self._queried = (Bound(network.modes(mode), network.device) for mode in (True, False))
        self._optimizers: dict[Recipe, torch.optim.Optimizer] = {}

    @property
    def steps_in_one_call(self) -> bool:
        """Whether one call runs many steps: on a GPU, since each call moves the state to it and back."""
        return self._network.device.type != "cpu"

    @property
    def steps_are_static(self) -> bool:
        """Whether each number of steps in a call is compiled separately; never in PyTorch."""
        return False

    def init(self, models: Sequence[int]) -> State:
        """Initialises the states of models."""
        keys = self.keys(models)
        states = [self._fresh(keys[place]) for place in range(len(models))]
        return jax.tree.map(lambda *values: np.stack(values), *states)

    def run(
        self, state: State, hyper: Hyper, keys: jax.Array, index: np.ndarray, first: int, total: np.ndarray
    ) -> tuple[State, dict[str, jax.Array]]:
        """Trains each model on its own batches; see `Ensemble.run`.

        Raises:
            MemoryError: The device has too little memory.
        """
        state = jax.tree.map(lambda array: array if array.flags.writeable else array.copy(), state)
        try:
            metrics = [
                self._train(
                    jax.tree.map(lambda array, place=place: array[place, ...], state),
                    self._recipe_of(hyper, place),
                    keys[place],
                    index[:, place],
                    first,
                    int(total[place]),
                )
                for place in range(len(total))
            ]
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error
        loss, accuracy = (jnp.asarray(np.stack(values)) for values in zip(*metrics, strict=True))
        return state, {"loss": loss, "accuracy": accuracy}

    def margins(self, state: State, index: np.ndarray, view: View) -> tuple[jax.Array, jax.Array]:
        """Queries every model on pool samples in one view, in float32; see `Ensemble.margins`."""
        images, labels = self.programs.gather_view(self.images, self.labels, index, view)
        batch = self._in_torch(self._normalised(images))
        logits = []
        for place in range(len(jax.tree.leaves(state)[0])):
            own = jax.tree.map(lambda array, place=place: array[place, ...], state)
            # Copies, since a network may change its buffers in evaluation too, and a query must not change the state.
            stats = {name: array.copy() for name, array in own["stats"].items()}
            self._queried.use({**own.get("average", own["params"]), **stats})
            with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                logits.append(self._queried.module(batch).float().cpu().numpy())
        return _margins(jnp.asarray(np.stack(logits)), labels)

    def _fresh(self, key: jax.Array) -> State:
        params, stats = self._network.init(jax.random.fold_in(key, INIT))
        state: State = {"params": params, "stats": stats, "optimizer": _memory(self._recipe, params)}
        if self._recipe.ema:
            state["average"] = {name: array.copy() for name, array in params.items()}
        return state

    def _train(
        self, state: State, recipe: Recipe, key: jax.Array, index: np.ndarray, first: int, total: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Trains one model in place; returns loss and accuracy `[step]`, their means for steps beyond the last."""
        device = self._network.device
        losses, hits = [], []
        optimizer = self._optimizer(recipe)
        average = {name: self._trained.tensor(array) for name, array in state.get("average", {}).items()}
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.backends.cudnn.flags(enabled=True, benchmark=True),
            self._trained.to({**state["params"], **state["stats"]}),
            self._trained.with_state(optimizer, state["optimizer"]),
        ):
            for step, batch in enumerate(index[: max(total - first, 0)], start=first):
                samples, noise = self._batch(key, np.int32(step), self.images, batch)
                torch.manual_seed(int(noise))
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, step, total)
                labels = self._targets[torch.from_numpy(batch).long()].to(device)
                loss, logits = train_step(self._trained.module, optimizer, self._in_torch(samples), labels, recipe)
                for name, mean in average.items():
                    mean.lerp_(self._trained.parameters[name].detach(), 1 - recipe.ema)
                losses.append(loss)
                hits.append((logits.argmax(1) == labels).float().mean())
        for name, mean in average.items():
            write_back(state["average"][name], mean)
        return _filled(losses, len(index)), _filled(hits, len(index))

    def _recipe_of(self, hyper: Hyper, place: int) -> Recipe:
        own = {name: float(values[place]) for name, values in hyper._asdict().items()}
        return self._recipe.model_copy(update=own)

    def _optimizer(self, recipe: Recipe) -> torch.optim.Optimizer:
        if recipe not in self._optimizers:
            # PyTorch's fused updates do not take complex weights.
            fused = all(value.is_floating_point() for value in self._trained.parameters.values() if value.requires_grad)
            self._optimizers[recipe] = make_optimizer(self._trained.module, recipe, fused=fused)
        return self._optimizers[recipe]

    @cached_property
    def _batch(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        """Creates a function that returns the normalised batch of a step, as in JAX, and the seed of its dropout."""

        def batch(key: jax.Array, step: jax.Array, images: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
            augment, noise = (jax.random.fold_in(jax.random.fold_in(key, stream), step) for stream in (AUGMENT, NOISE))
            samples = kind_of(images).batch(augment, images, index, self._recipe.augment)
            normalised = self.trainer.preprocessing.normalised(samples, jnp.dtype(jnp.float32))
            return normalised, jax.random.bits(noise, (), jnp.uint32)

        return jax.jit(batch)

    @cached_property
    def _normalised(self) -> Callable[[jax.Array], jax.Array]:
        return jax.jit(lambda images: self.trainer.preprocessing.normalised(images, jnp.dtype(jnp.float32)))

    def _in_torch(self, samples: jax.Array) -> torch.Tensor:
        """Converts samples to inputs of the network: channels first, token ids as int64."""
        batch = torch.tensor(np.asarray(samples), device=self._network.device)
        if batch.ndim == 4:
            return batch.permute(0, 3, 1, 2)
        return batch if batch.is_floating_point() else batch.long()


def _shapes(module: nn.Module) -> set[tuple[str, torch.Size]]:
    return {(name, value.shape) for name, value in tensors_of(module).items()}


def _memory(recipe: Recipe, params: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Initial state of a recipe's optimizer."""
    if recipe.optimizer == "adamw":
        steps = {name: np.zeros((), np.float32) for name in params}
        return {"step": steps, **{kind: _zeros(params) for kind in ("exp_avg", "exp_avg_sq")}}
    return {"momentum_buffer": _zeros(params)} if recipe.momentum else {}


def _zeros(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.zeros_like(array) for name, array in params.items()}


def _filled(values: list[torch.Tensor], steps: int) -> np.ndarray:
    """Values of the steps that were made, and their mean for all others up to `steps`; NaN if none were made."""
    filled = np.full(steps, np.nan, np.float32)
    if values:
        made = torch.stack(values)
        filled[:] = made.mean().item()
        filled[: len(values)] = made.float().cpu().numpy()
    return filled


@jax.jit
def _margins(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    return logit_margin(logits, labels), logits.argmax(-1) == jnp.broadcast_to(labels, logits.shape[:-1])
