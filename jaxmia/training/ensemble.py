"""Many models trained as one program."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxmia.data.augment import View
from jaxmia.training.optimizer import Hyper
from jaxmia.training.plan import Plan
from jaxmia.training.programs import Programs
from jaxmia.training.trainer import State, Trainer


class Ensemble:
    """K models side by side on one pool; every array of a state has the model axis in front.

    Args:
        trainer: How one model trains.
        plan: How they run together.
        seed: Seed of the run.
        images: The pool, uint8 or float `[sample, height, width, channel]`; moved to the devices once.
        labels: int `[sample]`.
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
        self.programs = Programs(trainer, plan)
        self._seed = seed
        self.images, self.labels = jax.device_put((images, labels.astype(np.int32)), self.programs.replicated)

    def keys(self, models: Sequence[int]) -> jax.Array:
        """The key of each model, `[model]`; it depends on the seed and the model's number only."""
        return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self._seed), jnp.asarray(models, jnp.uint32))

    def init(self, models: Sequence[int]) -> State:
        """Fresh states; each model's is computed alone, so that rounding cannot depend on the width."""
        keys = self.keys(models)
        states = [self.programs.init(keys[i]) for i in range(len(models))]
        stacked = jax.tree.map(lambda *values: jnp.stack(values), *states)
        return jax.device_put(stacked, self.programs.sharded)

    def run(
        self, state: State, hyper: Hyper, keys: jax.Array, index: np.ndarray, first: int, total: np.ndarray
    ) -> tuple[State, dict[str, jax.Array]]:
        """Trains each model on its own batches; the given state's memory is reused.

        Args:
            state: Of all models.
            hyper: `[model]` each.
            keys: `[model]`.
            index: Batches, int32 `[step, model, batch]`.
            first: Number of the first of these steps.
            total: Steps of each model's whole training, `[model]`; beyond them a model stays as it is.

        Returns:
            The new state, and means over these steps of `loss` and `accuracy`, `[model]`.
        """
        if self.programs.steps_in_one_call:
            return self.programs.steps(state, hyper, keys, self.images, self.labels, index, np.int32(first), total)
        metrics = []
        for step, batch in enumerate(index, start=first):
            state, metric = self.programs.step(
                state, hyper, keys, self.images, self.labels, batch, np.int32(step), total
            )
            metrics.append(metric)
        return state, jax.tree.map(lambda *values: jnp.stack(values).mean(0), *metrics)

    def margins(self, state: State, index: np.ndarray, view: View) -> tuple[jax.Array, jax.Array]:
        """Asks every model about pool samples, seen in `view`, in eval mode.

        Args:
            state: Of all models.
            index: Which samples, int `[sample]`.
            view: How they are seen.

        Returns:
            Logit margins in nats, float32, and whether the predicted class is right, both `[model, sample]`.
        """
        images, labels = self.programs.gather_view(self.images, self.labels, index, view)
        return self.programs.margins(state, images, labels)
