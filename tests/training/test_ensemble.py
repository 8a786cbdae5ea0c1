import dataclasses
import json
import os
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmia.data.pool import Pool
from jaxmia.data.views import View
from jaxmia.models import Network
from jaxmia.models.conv import LOWERINGS, Lowering
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.programs import MOST_STEPS, Programs, programs_of
from jaxmia.training.trainer import Trainer
from tests.training.conftest import differences, made_batches, make_trainer, plan, stacked_hyper, take
from tests.warm import warm_python

MODELS = [5, 0, 8]


def make(pool: Pool, trainer: Trainer | None = None) -> Ensemble:
    """An ensemble with programs of its own, which a test may change and whose traces it may count."""
    assert pool.images is not None
    ensemble = Ensemble(trainer or make_trainer(), plan(), 11, pool.images, pool.labels)
    ensemble.programs = Programs(ensemble.trainer, ensemble.plan)
    return ensemble


def test_initial_weights_depend_on_seed_and_model_only_bit_for_bit(pool: Pool, ensemble_of):
    ensemble = ensemble_of(make_trainer())
    together = ensemble.init(MODELS)
    for position, model in enumerate(MODELS):
        assert differences(take(together, position), ensemble.init([model])) == [0] * len(jax.tree.leaves(together))
    kernels = np.asarray(together["params"]["conv1"]["kernel"])
    assert all((kernels[i] != kernels[j]).any() for i in range(3) for j in range(i))
    other = Ensemble(make_trainer(), plan(), 12, np.asarray(pool.images), pool.labels).init(MODELS)
    assert (np.asarray(other["params"]["conv1"]["kernel"]) != kernels).any()


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_member_i_is_a_solo_run_of_i(train, lowering: Lowering):
    """Up to rounding (1e-5 of weights of order one): sums run in another order in a batched program."""
    trainer = make_trainer()
    together = train(trainer, MODELS, conv=lowering)
    for position, model in enumerate(MODELS[:2]):
        alone = train(trainer, [model], conv=lowering)
        assert max(differences(take(together, position), alone)) < 1e-5
    assert all(
        max(differences(take(together, i)["params"], take(together, j)["params"])) > 0.1
        for i in range(3)
        for j in range(i)
    )


def test_order_and_company_change_nothing(train):
    together, reversed_ = train(make_trainer(), MODELS), train(make_trainer(), MODELS[::-1])
    for position in range(3):
        assert max(differences(take(together, position), take(reversed_, 2 - position))) < 1e-5


@pytest.mark.parametrize(
    "recipe", [{}, {"architecture": "mlp", "ema": 0.9, "optimizer": "adamw"}], ids=["sgd", "adamw"]
)
def test_one_after_the_other_is_all_at_once(train, recipe: dict):
    trainer = make_trainer(**recipe)
    together, apart = train(trainer, MODELS), train(trainer, MODELS, conv="sequential")
    assert max(differences(together, apart)) < 1e-5


@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
def test_many_steps_in_one_call_are_the_same_steps(pool: Pool, train, monkeypatch, static: bool):
    """A loop over steps, static on accelerators and dynamic on a CPU, against a call a step; with the same losses."""
    losses = []
    states = []
    for looped in (False, True):
        ensemble = make(pool, make_trainer(architecture="mlp"))
        monkeypatch.setattr(ensemble.programs, "steps_in_one_call", looped)
        monkeypatch.setattr(ensemble.programs, "steps_are_static", static)
        batches = made_batches(ensemble.trainer, MODELS, len(pool))
        state, metrics = ensemble.run(
            ensemble.init(MODELS),
            stacked_hyper(ensemble.trainer, 3),
            ensemble.keys(MODELS),
            batches.block(2, 5),
            2,
            batches.total,
        )
        states.append(state)
        losses.append(np.asarray(metrics["loss"]))
    assert max(differences(*states)) < 1e-5
    np.testing.assert_allclose(losses[0], losses[1][:, :5], rtol=1e-5)
    assert not losses[1][:, 5:].any()


def test_a_loop_of_another_length_is_the_same_program(pool: Pool, monkeypatch):
    """On a CPU, so that calls can be short where steps are slow."""
    TRACES.clear()
    trainer = make_trainer(architecture="mlp", width=4)
    counting = Counting(**{field.name: getattr(trainer, field.name) for field in dataclasses.fields(trainer)})
    ensemble = make(pool, counting)
    assert ensemble.steps_in_one_call
    batches = made_batches(trainer, MODELS, len(pool))
    hyper, keys = stacked_hyper(trainer, 3), ensemble.keys(MODELS)
    whole, losses = ensemble.run(ensemble.init(MODELS), hyper, keys, batches.block(0, 5), 0, batches.total)
    assert losses["loss"].is_ready(), "the call is over, so that its time is that of its steps"
    state, first = ensemble.run(ensemble.init(MODELS), hyper, keys, batches.block(0, 3), 0, batches.total)
    state, second = ensemble.run(state, hyper, keys, batches.block(3, 2), 3, batches.total)
    assert TRACES == ["step"]
    assert max(differences(whole, state)) == 0
    parts = [np.asarray(metrics["loss"])[:, :count] for metrics, count in ((first, 3), (second, 2))]
    np.testing.assert_array_equal(np.concatenate(parts, 1), np.asarray(losses["loss"])[:, :5])


def test_a_run_cut_in_two_is_the_whole_run_bit_for_bit(pool: Pool, ensemble_of):
    ensemble = ensemble_of(make_trainer())
    batches = made_batches(ensemble.trainer, MODELS, len(pool))
    hyper, keys = stacked_hyper(ensemble.trainer, 3), ensemble.keys(MODELS)
    whole, _ = ensemble.run(ensemble.init(MODELS), hyper, keys, batches.block(0, 6), 0, batches.total)
    part, _ = ensemble.run(ensemble.init(MODELS), hyper, keys, batches.block(0, 2), 0, batches.total)
    part, _ = ensemble.run(part, hyper, keys, batches.block(2, 4), 2, batches.total)
    assert max(differences(whole, part)) == 0


def test_a_model_past_its_end_stays_bit_for_bit(pool: Pool, ensemble_of):
    """The others go on: their IN sets are larger, so their training is longer."""
    ensemble = ensemble_of(make_trainer(architecture="mlp", ema=0.5))
    batches = made_batches(ensemble.trainer, MODELS, len(pool))
    hyper, keys, total = stacked_hyper(ensemble.trainer, 3), ensemble.keys(MODELS), np.array([3, 5, 0], np.int32)
    fresh = jax.device_get(ensemble.init(MODELS))
    before, _ = ensemble.run(ensemble.init(MODELS), hyper, keys, batches.block(0, 3), 0, total)
    before = jax.device_get(before)
    after, _ = ensemble.run(jax.tree.map(jnp.asarray, before), hyper, keys, batches.block(3, 3), 3, total)
    assert max(differences(take(before, 0), take(after, 0))) == 0
    assert max(differences(take(before, 1), take(after, 1))) > 1e-3
    assert max(differences(take(fresh, 2), take(after, 2))) == 0


TRACES: list[str] = []


@dataclasses.dataclass(frozen=True)
class Counting(Trainer):
    """Notes each time that JAX traces it."""

    def step(self, *arguments, **options):
        TRACES.append("step")
        return super().step(*arguments, **options)

    def logits(self, state, images):
        TRACES.append("logits")
        return super().logits(state, images)


def test_each_program_is_traced_once_for_each_shape(pool: Pool):
    trainer = make_trainer(architecture="mlp", width=4)
    ensemble = make(
        pool, Counting(**{field.name: getattr(trainer, field.name) for field in dataclasses.fields(trainer)})
    )
    batches = made_batches(trainer, MODELS, len(pool))
    hyper, keys = stacked_hyper(trainer, 3), ensemble.keys(MODELS)
    state = ensemble.init(MODELS)
    TRACES.clear()
    for first in range(0, 6, 2):
        state, _ = ensemble.run(state, hyper, keys, batches.block(first, 2), first, batches.total)
        for view in (View(), View("hflip"), View("identity", 1, 1)):
            ensemble.margins(state, np.arange(first, first + 5), view)
    ensemble.run(ensemble.init([1, 2, 3]), hyper, ensemble.keys([1, 2, 3]), batches.block(0, 1), 0, batches.total)
    assert sorted(TRACES) == ["logits", "step"]
    ensemble.run(
        ensemble.init([1]), stacked_hyper(trainer, 1), keys[:1], batches.block(0, 1)[:, :1], 0, batches.total[:1]
    )
    assert TRACES.count("step") == 2


def test_ensembles_of_equal_trainers_and_plans_share_programs_save_for_own_networks():
    mlp, wider = make_trainer(architecture="mlp", width=4), make_trainer(architecture="mlp", width=5)
    own = dataclasses.replace(mlp, network=Network("package.module:factory", (6, 6, 2), 3))
    assert programs_of(mlp, plan()) is programs_of(make_trainer(architecture="mlp", width=4), plan())
    assert programs_of(mlp, plan()) is not programs_of(wider, plan())
    assert programs_of(mlp, plan()) is not programs_of(mlp, plan("sequential"))
    assert programs_of(own, plan()) is not programs_of(own, plan())


@pytest.mark.parametrize("recipe", [{}, {"architecture": "mlp", "width": 16}])
def test_training_learns_its_own_samples(pool: Pool, ensemble_of, recipe: dict):
    """The classes differ in brightness: from chance to most of them, with and without batch statistics."""
    trainer = make_trainer(epochs=30, **recipe)
    ensemble = ensemble_of(trainer)
    batches = made_batches(trainer, MODELS, len(pool))
    hyper, keys = stacked_hyper(trainer, 3), ensemble.keys(MODELS)
    state, losses = ensemble.init(MODELS), []
    for first in range(0, batches.steps, MOST_STEPS):
        block = batches.block(first, min(MOST_STEPS, batches.steps - first))
        state, metrics = ensemble.run(state, hyper, keys, block, first, batches.total)
        losses.append(metrics["loss"])
    _, correct = ensemble.margins(state, np.arange(len(pool)), View())
    assert np.asarray(correct).mean() > 0.8
    assert np.isfinite(np.concatenate(losses, 1)).all()


PROGRAM = """
import json, sys, jax, numpy as np
from jaxmia.training.plan import Plan
from tests.training.conftest import make_trainer, shadow_trainer
devices = tuple(jax.local_devices()[: int(sys.argv[1])])
assert len(jax.local_devices()) == 4
rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (40, 6, 6, 2), np.uint8), rng.integers(0, 3, 40)
plan = Plan(6, "unrolled", False, devices)
chunks = list(shadow_trainer(make_trainer(epochs=2), plan, images, labels).train(range(6)))
print(json.dumps([[c.model.tolist(), c.mask.tolist(), c.phi.tolist(), c.accuracy.tolist()] for c in chunks]))
"""


@pytest.mark.slow
def test_four_devices_are_one():
    """Six models over four virtual CPU devices are filled up to eight, and the surplus is dropped."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    found = []
    for devices in (1, 4):
        done = subprocess.run(
            [warm_python(), "-c", PROGRAM, str(devices)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[2],
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (chunk,) = json.loads(done.stdout)
        found.append(chunk)
    (models, masks, phi, accuracy), other = found
    assert models == other[0] == list(range(6))
    assert masks == other[1]
    np.testing.assert_allclose(phi, other[2], atol=1e-4)
    np.testing.assert_allclose(accuracy, other[3], atol=0.06)
