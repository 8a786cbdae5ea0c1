"""Measures the speed of an ensemble's training steps on synthetic samples."""

import time
from collections.abc import Callable
from functools import cached_property

import jax
import numpy as np
from jax.stages import Compiled

from jaxmia.training.ensemble import make_ensemble
from jaxmia.training.optimizer import hyper_of
from jaxmia.training.plan import Plan
from jaxmia.training.programs import MOST_STEPS, footprint
from jaxmia.training.speed import steady_rate
from jaxmia.training.trainer import Trainer

_POOL = 1024
_STEPS_A_CALL = 8
_SECONDS_A_CALL = 0.25


class StepTimer:
    """Times training steps of an ensemble on random samples.

    Args:
        trainer: Trainer of one model.
        plan: Plan of the ensemble.
    """

    def __init__(self, trainer: Trainer, plan: Plan) -> None:
        generator = np.random.default_rng(0)
        images = generator.integers(0, 2, (_POOL, *trainer.network.shape)).astype(trainer.dtype)
        labels = generator.integers(0, trainer.network.classes, _POOL)
        width, models = plan.width, range(plan.width)
        self._ensemble = make_ensemble(trainer, plan, 0, images, labels)
        self._state = self._ensemble.init(models)
        self._keys = self._ensemble.keys(models)
        self._hyper = jax.tree.map(lambda value: np.full(width, value, np.float32), hyper_of(trainer.recipe))
        many = self._ensemble.steps_in_one_call and not self._ensemble.steps_are_static
        shape = (MOST_STEPS if many else _STEPS_A_CALL, width, trainer.recipe.batch_size)
        self._index = generator.integers(0, _POOL, shape).astype(np.int32)
        self._total = np.full(width, 2**30, np.int32)
        self._done = 0

    @property
    def plan(self) -> Plan:
        """Plan of the ensemble."""
        return self._ensemble.plan

    @property
    def steps(self) -> int:
        """Number of steps in a call; known after the warm-up."""
        return len(self._index)

    @property
    def images(self) -> int:
        """Number of images in a call, over all models."""
        return self._index.size

    @property
    def bytes(self) -> int:
        """Memory of a call in bytes over all devices: states, pool, batches and temporaries."""
        return footprint(self.program) * len(self._ensemble.plan.devices)

    @cached_property
    def program(self) -> Compiled:
        """Compiled program of a call."""
        return self._ensemble.programs.lower(len(self._keys), _POOL, _STEPS_A_CALL).compile()

    def warm_up(self) -> float:
        """Runs the first calls, which compile; returns the compile time in seconds, first call minus second.

        Where the number of steps is not static, later measurements run as many as take a measurable time.
        """
        index, static = self._index, self._ensemble.steps_are_static
        if not static:
            self._index = index[:1]
        first, second = self.seconds(), self.seconds()
        if not static:
            self._index = index[: max(1, round(_SECONDS_A_CALL / second))]
        return max(first - second, 0.0)

    def seconds(self) -> float:
        """Runs one call and returns its time in seconds."""
        started = time.perf_counter()
        self._state, metrics = self._ensemble.run(
            self._state, self._hyper, self._keys, self._index, self._done, self._total
        )
        jax.block_until_ready((self._state, metrics))
        self._done += len(self._index)
        return time.perf_counter() - started

    def images_per_second(self, seconds: float) -> float:
        """Speed in steady state over all models, over as many calls as fill the seconds."""
        return steady_rate(self, seconds)


def images_per_second(timer: StepTimer, repeats: int = 3) -> float:
    """Measures images per second over all models, as the median of several calls after the warm-up."""
    timer.warm_up()
    return timer.images / float(np.median([timer.seconds() for _ in range(repeats)]))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device or the host ran out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError)
        and any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory"))
    )


def attempt(action: Callable[[], float]) -> float | None:
    """Returns the result of `action`, or None if it runs out of memory."""
    try:
        return action()
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if out_of_memory(error):
            return None
        raise
