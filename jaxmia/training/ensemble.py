"""Many models trained as one program."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmia.augment import View, apply_view
from jaxmia.scores.margin import logit_margin
from jaxmia.training.devices import Device
from jaxmia.training.optimizer import Hyper
from jaxmia.training.step import State, Trainer

_AXIS = "model"


class Ensemble:
    """K models side by side on one pool; every array of a state has the model axis in front.

    Args:
        trainer: How one model trains.
        seed: Seed of the run.
        images: The pool, uint8 or float `[sample, height, width, channel]`; moved to the devices once.
        labels: int `[sample]`.
        sequential: Train one model after the other inside the program instead of all at once.
        devices: Where; the models are spread evenly over them.
    """

    def __init__(
        self,
        trainer: Trainer,
        seed: int,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        sequential: bool = False,
        devices: Sequence[Device] | None = None,
    ) -> None:
        self.trainer = trainer
        self.devices = tuple(devices or jax.local_devices()[:1])
        self._seed = seed
        self._sequential = sequential
        self._mesh = Mesh(np.array(self.devices), (_AXIS,), axis_types=(AxisType.Auto,))
        self.images, self.labels = jax.device_put((images, labels.astype(np.int32)), self._sharding(P()))

    @property
    def steps_in_one_call(self) -> bool:
        """Whether many steps run in one call; on a CPU one call is one step, since XLA's loops are slow there."""
        return self.devices[0].platform != "cpu"

    def keys(self, models: Sequence[int]) -> jax.Array:
        """The key of each model, `[model]`; it depends on the seed and the model's number only."""
        return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self._seed), jnp.asarray(models, jnp.uint32))

    def init(self, models: Sequence[int]) -> State:
        """Fresh states; each model's is computed alone, so that rounding cannot depend on the width."""
        keys = self.keys(models)
        states = [self._init(keys[i]) for i in range(len(models))]
        stacked = jax.tree.map(lambda *values: jnp.stack(values), *states)
        return jax.device_put(stacked, self._sharding(P(_AXIS)))

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
        if self.steps_in_one_call:
            return self._scan(state, hyper, keys, self.images, self.labels, index, np.int32(first), total)
        metrics = []
        for step, batch in enumerate(index, start=first):
            state, metric = self._step(state, hyper, keys, self.images, self.labels, batch, np.int32(step), total)
            metrics.append(metric)
        return state, jax.tree.map(lambda *values: jnp.stack(values).mean(0), *metrics)

    def bytes(
        self, state: State, hyper: Hyper, keys: jax.Array, index: np.ndarray, first: int, total: np.ndarray
    ) -> int:
        """Memory that a call of `run` with these arguments takes on all devices, by the compiler's account."""
        program, batches = (self._scan, index) if self.steps_in_one_call else (self._step, index[0])
        compiled = program.lower(
            state, hyper, keys, self.images, self.labels, batches, np.int32(first), total
        ).compile()
        account = compiled.memory_analysis()
        one = account.argument_size_in_bytes + account.output_size_in_bytes + account.temp_size_in_bytes
        return (one - account.alias_size_in_bytes) * len(self.devices)

    def margins(self, state: State, index: np.ndarray, view: View) -> tuple[jax.Array, jax.Array]:
        """Asks every model about pool samples, seen in `view`, in eval mode.

        Args:
            state: Of all models.
            index: Which samples, int `[sample]`.
            view: How they are seen.

        Returns:
            Logit margins in nats, float32, and whether the predicted class is right, both `[model, sample]`.
        """
        images, labels = self._look(self.images, self.labels, index, view)
        return self._margins(state, images, labels)

    @cached_property
    def _init(self) -> Callable[[jax.Array], State]:
        return jax.jit(self.trainer.init)

    @cached_property
    def _step(self) -> Callable[..., Any]:
        per_model = (0, 0, 0, None, None, 0, None, 0)
        return self._program(self.trainer.step, per_model, donate=True)

    @cached_property
    def _scan(self) -> Callable[..., Any]:
        def steps(state, hyper, key, images, labels, index, first, total):
            def body(carry, batch):
                state, step = carry
                state, metric = self.trainer.step(state, hyper, key, images, labels, batch, step, total)
                return (state, step + 1), metric

            (state, _), metrics = jax.lax.scan(body, (state, first), index)
            return state, jax.tree.map(lambda value: value.mean(0), metrics)

        return self._program(steps, (0, 0, 0, None, None, 1, None, 0), donate=True)

    @cached_property
    def _look(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        def look(images: jax.Array, labels: jax.Array, index: jax.Array, view: View) -> tuple[jax.Array, jax.Array]:
            return apply_view(images[index], view), labels[index]

        return jax.jit(look, static_argnums=3)

    @cached_property
    def _margins(self) -> Callable[..., Any]:
        def margins(state: State, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = self.trainer.logits(state, images)
            return logit_margin(logits, labels), logits.argmax(-1) == labels

        return self._program(margins, (0, None, None))

    def _program(self, function: Callable[..., Any], axes: tuple[int | None, ...], donate: bool = False) -> Any:
        """`function` of one model as a jitted program over all models on all devices; `axes` as for `jax.vmap`."""
        many = _one_by_one(function, axes) if self._sequential else jax.vmap(function, axes)
        if len(self.devices) > 1:
            spread = tuple(P() if axis is None else P(*[None] * axis, _AXIS) for axis in axes)
            many = jax.shard_map(many, mesh=self._mesh, in_specs=spread, out_specs=P(_AXIS), check_vma=False)
        return jax.jit(many, donate_argnums=(0,) if donate else ())

    def _sharding(self, spec: P) -> NamedSharding:
        return NamedSharding(self._mesh, spec)


def _one_by_one(function: Callable[..., Any], axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """What `jax.vmap(function, axes)` computes, as a loop over the model axis inside the program."""

    def mapped(*arguments: Any) -> Any:
        moving = [
            jax.tree.map(lambda value, axis=axis: jnp.moveaxis(value, axis, 0), argument)
            for argument, axis in zip(arguments, axes, strict=True)
            if axis is not None
        ]

        def one(slices: list[Any]) -> Any:
            parts = iter(slices)
            return function(
                *(argument if axis is None else next(parts) for argument, axis in zip(arguments, axes, strict=True))
            )

        return jax.lax.map(one, moving)

    return mapped
