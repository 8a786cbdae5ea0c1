"""Programs that train and query many models at once; they hold no arrays, so they can be compiled without data."""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.stages import Compiled, Lowered

from jaxmia.data.kinds import kind_of
from jaxmia.data.views import View
from jaxmia.models import Network
from jaxmia.training.margin import logit_margin
from jaxmia.training.optimizer import hyper_of
from jaxmia.training.plan import Plan
from jaxmia.training.trainer import State, Trainer

_AXIS = "model"
_OF_STEP, _OF_STEPS = (0, 0, 0, None, None, 0, None, 0), (0, 0, 0, None, None, 1, None, 0, None)
"""Position of the model axis in the arguments of one and of many steps: state, hyper, key, images, labels, batches,
step, total; and the number of steps."""

MOST_STEPS = 64
"""Largest number of steps in one call, since a call cannot be interrupted."""


class Programs:
    """Programs of an ensemble; every array of its state has a leading model axis.

    Args:
        trainer: Trainer of one model.
        plan: Plan by which the models are trained together; they are sharded evenly over its devices.
    """

    def __init__(self, trainer: Trainer, plan: Plan) -> None:
        self._trainer = plan.lower(trainer)
        self._mesh = Mesh(np.array(plan.devices), (_AXIS,), axis_types=(AxisType.Auto,))
        self.sharded = NamedSharding(self._mesh, P(_AXIS))
        """Sharding of arrays whose first axis is the model axis."""
        self.replicated = NamedSharding(self._mesh, P())
        """Sharding of arrays that all models share."""
        self._plan = plan
        self.steps_are_static = plan.devices[0].platform != "cpu"
        """Whether the number of steps is part of the program of a call, so that each number is compiled separately."""

    @cached_property
    def steps_in_one_call(self) -> bool:
        """Whether one call runs many steps; on a CPU XLA's own convolutions are slow in a loop."""
        network = self._trainer.network
        if self.steps_are_static:  # on any device but a CPU
            return True
        if isinstance(network, Network) and network.built_in:
            return not network.convolutional or self._plan.lowering in ("native", "matmul")
        width = len(self._plan.devices)
        return "stablehlo.convolution" not in self.step.lower(*self._arguments(width, 1)).as_text()

    @cached_property
    def init(self) -> Callable[[jax.Array], State]:
        """Initialises the state of one model from its key."""
        return jax.jit(self._trainer.init)

    @cached_property
    def stack(self) -> Callable[[Sequence[State]], State]:
        """Stacks the states of single models along the model axis."""
        return jax.jit(lambda states: jax.tree.map(lambda *values: jnp.stack(values), *states))

    @cached_property
    def step(self) -> Callable[..., Any]:
        """`Trainer.step` of all models; the given state's memory is reused."""
        return self._of_all(self._trainer.step, _OF_STEP, donate=True)

    @cached_property
    def steps(self) -> Callable[..., Any]:
        """Many steps of all models: batches are `[step, model, batch]`, metrics `[model, step]`.

        The last argument is the number of steps. Where it is not static, it may be less than that of the batches, and
        metrics of steps that are not run are zero.
        """

        def static(state, hyper, key, images, labels, index, first, total, count):
            def body(carry, batch):
                state, step = carry
                state, metric = self._trainer.step(state, hyper, key, images, labels, batch, step, total)
                return (state, step + 1), metric

            (state, _), metrics = jax.lax.scan(body, (state, first), index)
            return state, metrics

        def dynamic(state, hyper, key, images, labels, index, first, total, count):
            def body(step, carry):
                state, metrics = carry
                state, metric = self._trainer.step(state, hyper, key, images, labels, index[step], first + step, total)
                return state, jax.tree.map(lambda values, value: values.at[step].set(value), metrics, metric)

            metrics = dict.fromkeys(("loss", "accuracy"), jnp.zeros(len(index)))
            return jax.lax.fori_loop(0, count, body, (state, metrics))

        return self._of_all(static if self.steps_are_static else dynamic, _OF_STEPS, donate=True)

    @cached_property
    def gather_view(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        """Gathers samples of the pool in a view, and their labels."""

        def gather_view(
            images: jax.Array, labels: jax.Array, index: jax.Array, view: View
        ) -> tuple[jax.Array, jax.Array]:
            return kind_of(images).view(images[index], view), labels[index]

        return jax.jit(gather_view, static_argnums=3)

    @cached_property
    def margins(self) -> Callable[..., Any]:
        """Logit margins of all models on images, and whether their predictions are correct."""

        def margins(state: State, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = self._trainer.logits(state, images)
            return logit_margin(logits, labels), logits.argmax(-1) == labels

        return self._of_all(margins, (0, None, None))

    def lower(self, width: int, samples: int, steps: int) -> Lowered:
        """Lowers the training program for a pool, ready to be compiled.

        Args:
            width: Number of models trained together.
            samples: Number of samples in the pool.
            steps: Number of steps in a call, where it is static.
        """
        if not self.steps_in_one_call:
            return self.step.lower(*self._arguments(width, samples))
        return self.steps.lower(*self._arguments(width, samples, steps if self.steps_are_static else MOST_STEPS))

    def _arguments(self, width: int, samples: int, steps: int | None = None) -> list[Any]:
        """Shapes and shardings of the arguments of `step`, or of `steps` if there is a number of steps."""
        trainer, many = self._trainer, steps is not None
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), width))
        state = jax.eval_shape(jax.vmap(trainer.init), keys)
        one = jax.ShapeDtypeStruct((), jnp.int32)
        per_model = jax.ShapeDtypeStruct((width,), jnp.int32)
        hyper = jax.tree.map(lambda _: jax.ShapeDtypeStruct((width,), jnp.float32), hyper_of(trainer.recipe))
        images = jax.ShapeDtypeStruct((samples, *trainer.network.shape), trainer.dtype)
        labels = jax.ShapeDtypeStruct((samples,), jnp.int32)
        batches = jax.ShapeDtypeStruct((*[steps] * many, width, trainer.recipe.batch_size), jnp.int32)
        batched = NamedSharding(self._mesh, P(*[None] * many, _AXIS))
        own, replicated = self.sharded, self.replicated
        arguments = (state, hyper, keys, images, labels, batches, one, per_model, *[one] * many)
        shardings = (own, own, own, replicated, replicated, batched, replicated, own, *[replicated] * many)
        return [
            jax.tree.map(lambda leaf, where=where: leaf.update(sharding=where), argument)
            for argument, where in zip(arguments, shardings, strict=True)
        ]

    def _of_all(self, function: Callable[..., Any], axes: tuple[int | None, ...], donate: bool = False) -> Any:
        """Makes a jitted program over all models and devices from a function of one model; `axes` as in `jax.vmap`."""
        many = _one_by_one(function, axes) if self._plan.sequential else jax.vmap(function, axes)
        if self._mesh.size > 1:
            sharded = tuple(P() if axis is None else P(*[None] * axis, _AXIS) for axis in axes)
            many = jax.shard_map(many, mesh=self._mesh, in_specs=sharded, out_specs=P(_AXIS), check_vma=False)
        return jax.jit(many, donate_argnums=(0,) if donate else ())


_shared_programs = lru_cache(maxsize=16)(Programs)


def programs_of(trainer: Trainer, plan: Plan) -> Programs:
    """Programs of an ensemble; arguments as of `Programs`.

    Those of a built-in network are shared by all ensembles with the same trainer and plan, so that a process traces and
    compiles them once. The code of your own network may have changed meanwhile.
    """
    network = trainer.network
    shared = isinstance(network, Network) and network.built_in
    return (_shared_programs if shared else Programs)(trainer, plan)


def _one_by_one(function: Callable[..., Any], axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """Computes what `jax.vmap(function, axes)` does, with a loop over the model axis inside the program."""

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


def footprint(program: Compiled) -> int:
    """Memory in bytes that a call takes on one device, arguments included, according to the compiler."""
    account: Any = program.memory_analysis()
    return (
        account.argument_size_in_bytes
        + account.output_size_in_bytes
        + account.temp_size_in_bytes
        - account.alias_size_in_bytes
    )
