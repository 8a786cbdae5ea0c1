"""Networks of the user's own, alone and in an ensemble."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmia.config import Augment, Recipe
from jaxmia.data.pool import Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.errors import InputError
from jaxmia.models import Network
from jaxmia.models.conv import ensemble_conv
from jaxmia.models.layers import Compute
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.optimizer import hyper_of
from jaxmia.training.trainer import Trainer, make_trainer
from tests.models import own
from tests.training.conftest import differences, made_batches, plan, stacked_hyper, take

HERE = "tests.models.own"
MODELS = [5, 0, 8]
PREPROCESSING = Preprocessing(None, (0.5,), (0.25,))


def recipe(name: str, **changes) -> Recipe:
    return Recipe(
        architecture=f"{HERE}:{name}",
        epochs=3,
        batch_size=6,
        learning_rate=0.05,
        augment=Augment(),
        precision="float32",
    ).model_copy(update=changes)


def trainer(name: str, **changes) -> Trainer:
    made = recipe(name, **changes)
    network = Network(made.architecture, (6, 6, 2), 3, made.width)
    return Trainer(network, made, PREPROCESSING, Compute(jnp.dtype("float32")))


def trained(pool: Pool, one: Trainer, models: list[int], conv: str = "matmul", parts: tuple[int, ...] = (5,)):
    ensemble = Ensemble(one, plan(conv), 11, np.asarray(pool.images), pool.labels)
    batches, state, first = made_batches(one, models, len(pool)), ensemble.init(models), 0
    for steps in parts:
        index = batches.block(first, steps)
        state, _ = ensemble.run(
            state, stacked_hyper(one, len(models)), ensemble.keys(models), index, first, batches.total
        )
        first += steps
    return jax.device_get(state)


@pytest.mark.parametrize("name", ["Plain", "told"])
def test_member_i_is_a_solo_run_of_i_at_every_width(pool: Pool, name: str):
    """Batch statistics, dropout and the module's own state too, up to rounding."""
    together = trained(pool, trainer(name), MODELS)
    for position, model in enumerate(MODELS):
        assert max(differences(take(together, position), trained(pool, trainer(name), [model]))) < 1e-5
    assert max(differences(together, trained(pool, trainer(name), MODELS, "sequential"))) < 1e-5
    assert all(
        max(differences(take(together, i)["params"], take(together, j)["params"])) > 0.1
        for i in range(3)
        for j in range(i)
    )


def test_a_run_cut_in_two_is_the_whole_run_bit_for_bit(pool: Pool):
    whole, parts = (trained(pool, trainer("Plain"), MODELS, parts=parts) for parts in ((5,), (2, 3)))
    assert max(differences(whole, parts)) == 0


@pytest.mark.parametrize(("conv", "looped"), [("matmul", True), ("unrolled", False)])
@pytest.mark.parametrize("given", [True, False])
def test_steps_with_convolutions_of_xla_are_not_looped_on_a_cpu(pool: Pool, conv: str, looped: bool, given: bool):
    """Whatever the factory says of its convolutions: a network that ignores the given one uses that of XLA."""
    ensemble = Ensemble(trainer("Plain" if given else "Deaf"), plan(conv), 11, np.asarray(pool.images), pool.labels)
    assert ensemble.steps_in_one_call == (looped and given)


def test_what_the_module_keeps_is_kept_for_each_model(pool: Pool):
    state = trained(pool, trainer("Plain"), MODELS)
    assert state["stats"]["network"]["calls"].tolist() == [5, 5, 5]
    means = state["stats"]["network"]["norm"]["mean"]
    assert means.shape == (3, 4)
    assert np.abs(means).min() > 0
    assert np.abs(means[0] - means[1]).max() > 0


def test_one_step_is_flax_s_own(pool: Pool):
    """The loss, and the running statistics after it, of the bare module in Flax's training mode, without dropout."""
    one = trainer("Plain")
    state = one.init(jax.random.key(3))
    batch = PREPROCESSING.normalised(jnp.asarray(pool.images[:6]), jnp.dtype("float32"))  # type: ignore[index]
    labels = jnp.asarray(pool.labels[:6])
    bare = one.network.build(own.nnx.Rngs(0), one.compute).network  # type: ignore[attr-defined]
    own.nnx.update(bare, own.nnx.State(state["params"]["network"]), own.nnx.State(state["stats"]["network"]))
    bare.dropout.rate = 0.0
    bare.train()
    log_p = np.asarray(jax.nn.log_softmax(bare(batch)))
    expected = -log_p[np.arange(6), np.asarray(labels)].mean()

    class Undropped(Network):
        def _structure(self, compute):
            model = own.nnx.eval_shape(lambda: self.build(own.nnx.Rngs(0), compute))
            model.network.dropout.rate = 0.0
            graph, random, *_ = own.nnx.split(model, own.nnx.RngState, ...)
            return graph, random

    still = Trainer(Undropped(**one.network.describe()), one.recipe, PREPROCESSING, one.compute)
    loss, (_, stats) = still.loss(state["params"], state["stats"], batch, labels, 0.0, jax.random.key(1))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(stats["network"]["norm"]["mean"], bare.norm.mean[...], rtol=1e-5)
    np.testing.assert_allclose(stats["network"]["norm"]["var"], bare.norm.var[...], rtol=1e-5)


@pytest.mark.parametrize("name", ["Plain", "told"])
def test_random_numbers_are_of_the_model_and_the_step(pool: Pool, name: str):
    one = trainer(name, learning_rate=1e-9)
    hyper = jax.tree.map(jnp.float32, hyper_of(one.recipe))
    state = one.init(jax.random.key(0))
    step = jax.jit(one.step)

    def loss(key: int, number: int) -> float:
        arguments = (jax.random.key(key), pool.images, pool.labels, jnp.arange(12), jnp.int32(number), jnp.int32(9))
        return float(step(state, hyper, *arguments)[1]["loss"])

    assert loss(0, 1) == loss(0, 1)
    assert len({loss(0, 1), loss(0, 2), loss(1, 1), loss(1, 2)}) == 4


def test_queries_draw_nothing_and_move_no_statistics(pool: Pool):
    one = trainer("Plain")
    state = one.init(jax.random.key(0))
    images = jnp.asarray(pool.images)
    alone = np.concatenate([one.logits(state, images[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(alone, one.logits(state, images)[:4], atol=1e-5)


def test_convolutions_go_through_the_ensemble_s_where_the_factory_takes_one():
    assert trainer("Plain").network.convolutional
    assert not trainer("told").network.convolutional
    model = trainer("Plain").network.build(own.nnx.Rngs(0), Compute(conv=ensemble_conv("grouped")))
    assert model.network.conv.conv_general_dilated.__module__ == "jaxmia.models.conv"  # type: ignore[attr-defined]


def test_the_width_is_the_factory_s_own_unless_it_is_configured():
    kernels = [
        trainer("told", **width).init(jax.random.key(0))["params"]["network"]["fc"]["kernel"]
        for width in ({}, {"width": 9})
    ]
    assert [kernel.shape for kernel in kernels] == [(5, 3), (9, 3)]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("Absent", r"cannot import 'tests\.models\.own:Absent': AttributeError: .*; expected package\.module:name"),
        ("answer", r"'tests\.models\.own:answer' is a int, expected a function that returns a flax\.nnx\.Module"),
        ("asks_too_much", r".* requires number_of_classes, pretrained; offered are rngs, shape, classes, "),
        ("raises", r".* fails: FileNotFoundError: no weights\b"),
        ("no_module", r".* returns a str, expected a flax\.nnx\.Module"),
        ("fails_on_images", r".* cannot take images of \(6, 6, 2\) \[height, width, channel\]: \w+: "),
        ("wrong_shape", r".* returns \(2, 4\) for 2 samples, expected \(2, 3\)$"),
        (
            "probable",
            r".* returns probabilities \(rows in \[0, 1\] that sum to 1\), expected logits: leave",
        ),
        ("number", r".* requires x; offered are rngs, "),
        ("Twofold", r".* cannot take images of .*: TypeError: it returns a tuple, expected an array of logits"),
        ("OnTheHost", r".* cannot take images of .*: TracerArrayConversionError: "),
        ("Growing", r".* changes the shape, type or number of its variables in training: seen$"),
        ("Lazy", r".* changes the shape, type or number of its variables in training: late$"),
        ("Counting", r".* cannot train on images of \(6, 6, 2\) .*: TypeError: grad requires real- or complex-valued"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_in_one_line_before_training(name: str, complaint: str):
    with pytest.raises(InputError, match=rf"^shadow\.architecture: {complaint}") as caught:
        make_trainer(recipe(name), (6, 6, 2), 3, PREPROCESSING)
    assert "\n" not in str(caught.value)


def test_a_width_that_the_factory_does_not_take_is_refused():
    with pytest.raises(InputError, match=r"^shadow\.width: 7 is given, but 'tests\.models\.own:Plain' takes no width"):
        make_trainer(recipe("Plain", width=7), (6, 6, 2), 3, PREPROCESSING)
