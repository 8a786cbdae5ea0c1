"""The training of some models together, step by step."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Self

import jax
import numpy as np

from jaxmia.config import Recipe
from jaxmia.data.masks import Masks
from jaxmia.runs.signals import Interrupted
from jaxmia.training.arrays import named_arrays, tree_of
from jaxmia.training.batches import Batches
from jaxmia.training.checkpoint import Checkpoints, Snapshot
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.limits import check_address_space
from jaxmia.training.optimizer import hyper_of_each
from jaxmia.training.pace import Pace
from jaxmia.training.programs import MOST_STEPS

logger = logging.getLogger(__name__)


class Training:
    """The training of some models together; it saves checkpoints, can be stopped, and resumes.

    As a context manager, it ends once the last checkpoint is saved.

    Args:
        ensemble: Ensemble that trains the models.
        masks: Membership masks; their seed also determines the batch order.
        models: Numbers of the models, which determine their masks, initial weights and batch orders.
        recipes: Recipe of each model, which may differ from the ensemble's in its epochs and in what `Hyper` holds; by
            default the ensemble's.
        numbers: Numbers by which checkpoints and messages know the models; by default their own.
        checkpoints: Checkpoints from which the training resumes and to which it saves.
        stop_signal: Returns the number of a received signal, or None; called after each call of the ensemble.

    Attributes:
        models: Numbers of the models.
        numbers: Numbers by which checkpoints and messages know them.
        padded_models: The same models, padded to a multiple of the number of devices.
        mask: Membership masks of the padded models, bool `[model, sample]`; True is IN.
        state: State of the padded models.
        step: Number of completed steps.
        steps: Number of steps of the whole training.
        seconds: Training time in seconds, including that before an interruption.
    """

    steps_a_call = MOST_STEPS
    """Largest number of steps in a call."""
    stage = "shadows"
    """Name of the stage in messages."""

    def __init__(
        self,
        ensemble: Ensemble,
        masks: Masks,
        models: Sequence[int],
        recipes: Sequence[Recipe] | None = None,
        *,
        numbers: Sequence[int] | None = None,
        checkpoints: Checkpoints | None = None,
        stop_signal: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.ensemble = ensemble
        self.models = list(models)
        self.padded_models = ensemble.plan.padded(models)
        self.mask = masks(self.padded_models)
        own = ensemble.trainer.recipe
        each = ensemble.plan.padded(recipes or [own] * len(models))
        self._hyper = hyper_of_each(each)
        epochs = np.array([recipe.epochs for recipe in each])
        self.batches = Batches(masks.seed, self.padded_models, self.mask, epochs, own.batch_size)
        self.state = ensemble.init(self.padded_models)
        self.step, self.steps = 0, self.batches.steps
        self.seconds = 0.0
        self.numbers = list(numbers or models)
        self._stop_signal = stop_signal
        self._checkpoints = checkpoints
        self._writer = checkpoints.writer(self.numbers) if checkpoints else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()

    def run(self) -> None:
        """Trains to the end, from a checkpoint if there is one.

        Raises:
            InputError: Memory ran out in a way in which XLA may compute wrong numbers; see `check_address_space`.
            Interrupted: A signal was received; the progress so far is saved.
        """
        if self._checkpoints and (snapshot := self._checkpoints.restore(self.numbers)):
            self._resume(snapshot)
        pace, keys = Pace(self.ensemble, self.steps_a_call), self.ensemble.keys(self.padded_models)
        total = self.batches.total
        before: jax.Array | None = None
        started = time.perf_counter() - self.seconds
        while self.step < self.steps:
            count = pace.choose(self.end_of_call(pace.most) - self.step)
            index = self.batches.block(self.step, count)
            self.state, metrics = self.ensemble.run(self.state, self._hyper, keys, index, self.step, total)
            if before is not None:
                # At most one call is queued behind the running one, so that a signal is handled within a call or two.
                before.block_until_ready()
            before = metrics["loss"]
            self.step += count
            self.after_call(before)
            self.seconds = time.perf_counter() - started
            check_address_space()
            self.raise_if_stopped()
            if self._writer and self._writer.due():
                self._writer.save(self._take_snapshot())

    def end_of_call(self, most: int) -> int:
        """Step at which the next call ends at the latest; a call makes at most `most` steps."""
        del most
        return self.steps

    def after_call(self, losses: jax.Array) -> None:
        """Called after each call of the ensemble with the losses of its steps in nats, `[model, step]`."""

    def raise_if_stopped(self) -> None:
        """Saves a checkpoint and raises `Interrupted` if a signal was received."""
        number = self._stop_signal()
        if number is not None:
            self._save_and_stop(number)

    def tree(self) -> dict[str, Any]:
        """Everything that changes from step to step, with a leading model axis."""
        return {"state": self.state}

    def restore(self, tree: dict[str, Any]) -> None:
        """Takes what `tree` returned when a checkpoint was saved."""
        self.state = tree["state"]

    def _save_and_stop(self, number: int) -> NoReturn:
        if self._writer is not None and self._writer.save(self._take_snapshot(), wait=True):
            where = f"{self.who} are saved at step {self.step} of {self.steps}; the same command resumes there"
        else:
            where = f"{self.who} are not saved; the same command resumes from the last checkpoint or finished chunk"
        raise Interrupted(number, where)

    def _take_snapshot(self) -> Snapshot:
        kept = len(self.models)
        arrays = {name: array[:kept] for name, array in named_arrays(self.tree()).items()}
        return Snapshot(self.step, self.seconds, arrays)

    def _resume(self, snapshot: Snapshot) -> None:
        surplus = len(self.padded_models) - len(self.models)
        arrays = {name: np.concatenate([array, *[array[-1:]] * surplus]) for name, array in snapshot.arrays.items()}
        self.restore(tree_of(arrays, self.tree(), f"the checkpoint of {self.who}"))
        self.step, self.seconds = snapshot.step, snapshot.seconds
        logger.info(f"{self.stage}: {self.who} resume from their checkpoint at step {self.step} of {self.steps}")

    @property
    def who(self) -> str:
        """The models, for messages."""
        return f"models {self.numbers[0]}-{self.numbers[-1]}"
