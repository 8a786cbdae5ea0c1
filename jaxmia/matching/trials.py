"""Trains models of many recipes, in one program if the recipes differ only in its inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from jaxmia.config import Recipe
from jaxmia.data.masks import Masks, steps_per_epoch
from jaxmia.data.views import View
from jaxmia.training.checkpoint import Checkpoints
from jaxmia.training.chunk import chunks_of, train_each
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.loop import Training
from jaxmia.training.query import query

FREE = ("epochs", "warmup_epochs", "learning_rate", "weight_decay", "label_smoothing")
"""Fields in which models of one program may differ, as long as the warm-up is the same fraction of the epochs."""


@dataclass(frozen=True)
class Outcome:
    """Results of one model on the whole pool, or with a leading model axis those of several.

    Attributes:
        phi: Logit margins in the identity view in nats, float32 `[sample]`.
        correct: Whether the prediction is correct, bool `[sample]`.
    """

    phi: np.ndarray
    correct: np.ndarray


def programs(recipes: Sequence[Recipe]) -> list[list[int]]:
    """Groups recipes, given by index, that one program can train; in each group those with most epochs come first."""
    groups: dict[str, list[int]] = {}
    for place, recipe in enumerate(recipes):
        groups.setdefault(recipe.model_dump_json(exclude=set(FREE)), []).append(place)
    return [sorted(group, key=lambda place: -recipes[place].epochs) for group in groups.values()]


def images_of(recipe: Recipe, members: int) -> int:
    """Number of images that a model of a recipe is trained on, if that many samples are IN."""
    return recipe.epochs * steps_per_epoch(members, recipe.batch_size) * recipe.batch_size


@dataclass(frozen=True)
class TrialTrainer:
    """Trains and queries models of the recipes of one program.

    Each recipe has the same number of models, and its model `i` equals the shadow model `i` that a run with that recipe
    would train. Over all recipes, it has the number `recipe * models + i`.

    Attributes:
        ensemble: Ensemble with the pool and the trainer of any of the recipes.
        recipes: All recipes, also those of other programs.
        models: Number of models of each recipe.
        masks: Membership masks; their seed also determines the batch order.
        query_batch: Number of images in a query step.
        on_images: Called with the numbers of models that train together and the number of images since the last call.
        stop_signal: Returns the number of a received signal, or None; called after each call of the ensemble.
    """

    ensemble: Ensemble
    recipes: Sequence[Recipe]
    models: int
    masks: Masks
    query_batch: int = 512
    on_images: Callable[[Sequence[int], int], None] = lambda numbers, images: None
    stop_signal: Callable[[], int | None] = lambda: None

    def train(
        self, numbers: Sequence[int], store: Callable[[int, Outcome], None], checkpoints: Checkpoints | None = None
    ) -> None:
        """Trains models in chunks of at most the plan's width, and passes each with its outcome to `store`.

        Raises:
            Interrupted: A signal was received; the progress so far is saved.
        """

        def train(chunk: list[int]) -> None:
            for number, outcome in zip(chunk, self.train_chunk(chunk, checkpoints), strict=True):
                store(number, outcome)
            if checkpoints:
                checkpoints.forget(chunk)

        resumable = checkpoints.resumable(numbers) if checkpoints else ()
        plan = self.ensemble.plan
        train_each(chunks_of(numbers, plan.width, resumable), train, plan)

    def train_chunk(self, numbers: Sequence[int], checkpoints: Checkpoints | None = None) -> list[Outcome]:
        """Trains and queries models together, resuming from a checkpoint if there is one; returns their outcomes.

        Raises:
            Interrupted: A signal was received; the progress so far is saved.
        """
        with _Trial(self, numbers, checkpoints) as training:
            training.run()
            leave = training.raise_if_stopped
            phi, correct = query(self.ensemble, training.state, (View(),), self.query_batch, lambda images: leave())
        return [Outcome(phi[row, 0], correct[row]) for row in range(len(numbers))]


class _Trial(Training):
    """The training of one chunk."""

    # Steps beyond the last change nothing, so where their number is static all calls have as many.
    steps_a_call = 32
    stage = "match"

    def __init__(self, trials: TrialTrainer, numbers: Sequence[int], checkpoints: Checkpoints | None) -> None:
        recipes, models = zip(*(divmod(number, trials.models) for number in numbers), strict=True)
        super().__init__(
            trials.ensemble,
            trials.masks,
            models,
            [trials.recipes[recipe] for recipe in recipes],
            numbers=numbers,
            checkpoints=checkpoints,
            stop_signal=trials.stop_signal,
        )
        if self.ensemble.steps_in_one_call and self.ensemble.steps_are_static:
            self.steps += -self.steps % self.steps_a_call
        self._on_images = trials.on_images
        self._seen = 0

    @property
    def who(self) -> str:
        """Number of the models, for messages."""
        return f"{len(self.models)} models"

    def after_call(self, losses: jax.Array) -> None:
        """Reports the number of images."""
        del losses
        steps = np.minimum(self.step, self.batches.total[: len(self.models)])
        seen = int(steps.sum()) * self.ensemble.trainer.recipe.batch_size
        self._on_images(self.numbers, seen - self._seen)
        self._seen = seen
