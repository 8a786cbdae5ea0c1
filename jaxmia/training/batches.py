"""Training batches of the models of an ensemble."""

from collections.abc import Sequence

import numpy as np

from jaxmia.data.masks import batch_order, steps_per_epoch
from jaxmia.errors import InputError


class Batches:
    """Batches of an ensemble for each step, generated on demand.

    Epochs of different models may begin at different steps, since their IN sets differ in size.

    Args:
        seed: Seed of the run.
        models: Numbers of the models.
        mask: Membership masks, bool `[model, sample]`; True is IN.
        epochs: Number of passes over each model's IN set, int `[model]`, or one for all models.
        batch_size: Number of samples in a batch.

    Raises:
        InputError: A model has no IN samples.
    """

    def __init__(
        self, seed: int, models: Sequence[int], mask: np.ndarray, epochs: int | np.ndarray, batch_size: int
    ) -> None:
        self._seed = seed
        self._models = list(models)
        self._members = [np.flatnonzero(row) for row in mask]
        self._batch_size = batch_size
        for model, members in zip(models, self._members, strict=True):
            if not len(members):
                raise InputError(f"model {model} has no IN samples among {mask.shape[1]}; use a larger pool")
        self._per_epoch = np.array([steps_per_epoch(len(members), batch_size) for members in self._members])
        self.total = (epochs * self._per_epoch).astype(np.int32)
        """Number of training steps of each model, int32 `[model]`."""
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    @property
    def steps(self) -> int:
        """Number of steps until the last model has finished."""
        return int(self.total.max())

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of the longest epoch among the models."""
        return int(self._per_epoch.max())

    def block(self, first: int, count: int) -> np.ndarray:
        """Batches of `count` steps starting at step `first`, int32 `[step, model, batch]`."""
        index = np.empty((count, len(self._models), self._batch_size), np.int32)
        for position, per_epoch in enumerate(self._per_epoch):
            done = 0
            while done < count:
                epoch, row = divmod(first + done, int(per_epoch))
                rows = self._order(position, epoch)[row : row + count - done]
                index[done : done + len(rows), position] = rows
                done += len(rows)
        return index

    def _order(self, position: int, epoch: int) -> np.ndarray:
        cached, order = self._orders.get(position, (-1, np.empty(0)))
        if cached != epoch:
            model, members = self._models[position], self._members[position]
            order = batch_order(self._seed, model, members, epoch, self._batch_size)
            self._orders[position] = (epoch, order)
        return order
