"""Many models trained as one program."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxmia.data.views import View
from jaxmia.training.optimizer import Hyper
from jaxmia.training.plan import Plan
from jaxmia.training.programs import MOST_STEPS, programs_of
from jaxmia.training.trainer import State, Trainer

_fold_in = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))


class Ensemble:
    """K models trained together on one pool; every array of their state has a leading model axis.

    Args:
        trainer: Trainer of one model.
        plan: Plan by which the models are trained together.
        seed: Seed of the run.
        images: Images of the pool, uint8 or float `[sample, height, width, channel]`; moved to the devices once.
        labels: Labels of the pool, int `[sample]`.
    """

    def __init__(
        self,
        trainer: Trainer,
        plan: Plan,
        seed: int,
        images: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        self.trainer = trainer
        self.plan = plan
        self.programs = programs_of(trainer, plan)
        self._seed = seed
        self.images, self.labels = jax.device_put((images, labels.astype(np.int32)), self.programs.replicated)

    @property
    def steps_in_one_call(self) -> bool:
        """Whether `run` is best called with many steps, at most `MOST_STEPS`."""
        return self.programs.steps_in_one_call

    @property
    def steps_are_static(self) -> bool:
        """Whether `run` is compiled separately for each number of steps."""
        return self.programs.steps_are_static

    def keys(self, models: Sequence[int]) -> jax.Array:
        """Random key of each model, `[model]`, which depends only on the seed and the model's number."""
        return _fold_in(jax.random.key(self._seed), np.asarray(models, np.uint32))

    def init(self, models: Sequence[int]) -> State:
        """Initialises the states of models, one by one, so that rounding does not depend on how many there are."""
        keys = self.keys(models)
        states = [self.programs.init(keys[i]) for i in range(len(models))]
        return jax.device_put(self.programs.stack(states), self.programs.sharded)

    def run(
        self, state: State, hyper: Hyper, keys: jax.Array, index: np.ndarray, first: int, total: np.ndarray
    ) -> tuple[State, dict[str, jax.Array]]:
        """Trains each model on its own batches; the given state's memory is reused.

        Args:
            state: State of all models.
            hyper: Hyperparameters, `[model]` each.
            keys: Random keys, `[model]`.
            index: Sample indices of the batches, int32 `[step, model, batch]`.
            first: Number of the first step.
            total: Number of steps of each model's whole training, `[model]`; later steps leave a model unchanged.

        Returns:
            The new state, and `loss` and `accuracy` of each step, `[model, step]`; after the last step may be zeros.
        """
        if self.steps_in_one_call:
            count = len(index)
            if not self.steps_are_static:
                index = np.pad(index, ((0, MOST_STEPS - count), (0, 0), (0, 0)))
            state, metrics = self.programs.steps(
                state, hyper, keys, self.images, self.labels, index, np.int32(first), total, np.int32(count)
            )
            if not self.steps_are_static:
                jax.block_until_ready(metrics)  # so that the time of the call is that of its steps
            return state, metrics
        metrics = []
        for step, batch in enumerate(index, start=first):
            state, metric = self.programs.step(
                state, hyper, keys, self.images, self.labels, batch, np.int32(step), total
            )
            metrics.append(metric)
        return state, jax.tree.map(lambda *values: jnp.stack(values, 1), *metrics)

    def margins(self, state: State, index: np.ndarray, view: View) -> tuple[jax.Array, jax.Array]:
        """Queries every model on pool samples in one view, in eval mode.

        Args:
            state: State of all models.
            index: Indices of the samples, int `[sample]`.
            view: View in which they are queried.

        Returns:
            Logit margins in nats, float32, and whether the prediction is correct, bool, both `[model, sample]`.
        """
        images, labels = self.programs.gather_view(self.images, self.labels, index, view)
        return self.programs.margins(state, images, labels)


@runtime_checkable
class ForeignNetwork(Protocol):
    """A network that JAX cannot compute, so that another framework trains its models, one after another."""

    @property
    def framework(self) -> str:
        """Name of the framework and of its device."""
        ...

    def ensemble(self, trainer: Trainer, plan: Plan, seed: int, images: np.ndarray, labels: np.ndarray) -> Ensemble:
        """Creates an ensemble, as the class `Ensemble` does, whose models the framework trains."""
        ...


def make_ensemble(trainer: Trainer, plan: Plan, seed: int, images: np.ndarray, labels: np.ndarray) -> Ensemble:
    """Creates the ensemble that trains the network of a trainer; arguments as of `Ensemble`."""
    make = trainer.network.ensemble if isinstance(trainer.network, ForeignNetwork) else Ensemble
    return make(trainer, plan, seed, images, labels)
