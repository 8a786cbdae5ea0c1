import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmia.data.pool import Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.training.optimizer import hyper_of
from tests.training.conftest import differences, make_trainer

KEY = jax.random.key(3)


def test_normalisation_is_by_channel_of_pixels_in_the_unit_interval(rng: np.random.Generator):
    pixels = rng.integers(0, 256, (2, 3, 4, 2), np.uint8)
    expected = (pixels / 255 - [0.2, 0.6]) / [0.1, 0.5]
    normalise = Preprocessing(None, (0.2, 0.6), (0.1, 0.5)).normalised
    np.testing.assert_allclose(normalise(jnp.asarray(pixels), jnp.dtype("float32")), expected, atol=1e-5)
    floats = jnp.asarray(pixels / np.float32(255), jnp.float32)
    np.testing.assert_allclose(normalise(floats, jnp.dtype("float32")), expected, atol=1e-5)
    assert normalise(floats, jnp.dtype("bfloat16")).dtype == jnp.bfloat16


def cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> float:
    """Mean over samples of -sum_j q_j log p_j with q = (1 - s) onehot + s / classes, in float64 loops."""
    losses = []
    for row, label in zip(logits.astype(np.float64), labels, strict=True):
        log_p = row - row.max() - np.log(np.exp(row - row.max()).sum())
        q = np.full(len(row), smoothing / len(row))
        q[label] += 1 - smoothing
        losses.append(-(q * log_p).sum())
    return float(np.mean(losses))


@pytest.mark.parametrize("smoothing", [0.0, 0.06, 0.5])
def test_the_loss_is_smoothed_cross_entropy(pool: Pool, smoothing: float):
    trainer = make_trainer(architecture="mlp", width=4)
    state = trainer.init(KEY)
    batch = trainer.preprocessing.normalised(jnp.asarray(pool.images[:12]), jnp.dtype("float32"))  # type: ignore[index]
    loss, (logits, _) = trainer.loss(
        state["params"], state["stats"], batch, jnp.asarray(pool.labels[:12]), jnp.float32(smoothing), KEY
    )
    assert float(loss) == pytest.approx(cross_entropy(np.asarray(logits), pool.labels[:12], smoothing), rel=1e-5)


def take_steps(trainer, pool: Pool, count: int):
    state, states = trainer.init(KEY), []
    step = jax.jit(trainer.step)
    hyper = jax.tree.map(jnp.float32, hyper_of(trainer.recipe))
    for number in range(count):
        index = jnp.arange(number, number + 6)
        state, _ = step(state, hyper, KEY, pool.images, pool.labels, index, jnp.int32(number), jnp.int32(count))
        states.append(state)
    return states


def test_the_average_of_weights_is_the_loops(pool: Pool):
    """average = d average + (1 - d) weights after each step, begun at the initial weights; it is queried."""
    trainer = make_trainer(architecture="mlp", width=4, ema=0.8, learning_rate=0.2)
    states = take_steps(trainer, pool, 5)
    expected = jax.tree.map(np.float64, trainer.init(KEY)["params"])
    for state in states:
        expected = jax.tree.map(lambda old, new: 0.8 * old + 0.2 * np.float64(new), expected, state["params"])
        assert max(differences(state["average"], expected)) < 1e-6
    last = states[-1]
    images = jnp.asarray(pool.images)
    averaged = trainer.logits(last, images)
    plain = {name: value for name, value in last.items() if name != "average"}
    np.testing.assert_array_equal(averaged, trainer.logits(plain | {"params": last["average"]}, images))
    assert np.abs(averaged - trainer.logits(plain, images)).max() > 1e-3


def test_a_step_is_the_gradient_times_the_rate(pool: Pool):
    """Without momentum, decay and augmentation: weights move by -rate dL/dw, found by central differences."""
    plain = make_trainer().recipe.augment.model_copy(update={"crop": 0, "flip": False})
    trainer = make_trainer(
        architecture="mlp", width=4, momentum=0.0, weight_decay=0.0, schedule="constant", augment=plain
    )
    before, after = trainer.init(KEY), take_steps(trainer, pool, 1)[0]
    batch = trainer.preprocessing.normalised(jnp.asarray(pool.images[:6]), jnp.dtype("float32"))  # type: ignore[index]

    @jax.jit
    def loss(bias):
        params = before["params"] | {"fc2": before["params"]["fc2"] | {"bias": bias}}
        return trainer.loss(params, before["stats"], batch, jnp.asarray(pool.labels[:6]), 0.1, KEY)[0]

    bias = np.asarray(before["params"]["fc2"]["bias"])
    for place in range(4):
        nudge = np.eye(4, dtype=np.float32)[place] * 0.01
        slope = (float(loss(bias + nudge)) - float(loss(bias - nudge))) / 0.02
        moved = float(after["params"]["fc2"]["bias"][place] - bias[place])
        assert moved == pytest.approx(-0.05 * slope, abs=2e-5)


def test_the_weight_decay_switch_reaches_scales_and_biases(pool: Pool):
    """The difference after one step without momentum is the decay itself, and only there."""
    states = [
        take_steps(
            make_trainer(weight_decay=0.1, momentum=0.0, schedule="constant", decay_norm_and_bias=everything), pool, 1
        )[0]["params"]
        for everything in (False, True)
    ]
    first = make_trainer().init(KEY)["params"]
    moved = jax.tree.map(lambda off, on: np.asarray(on - off), *states)
    decay = jax.tree.map(lambda value: np.asarray(-0.05 * 0.1 * value), first)
    for change, expected in zip(jax.tree.leaves(moved), jax.tree.leaves(decay), strict=True):
        np.testing.assert_allclose(change, 0 if change.ndim > 1 else expected, atol=1e-6)


def test_bfloat16_computes_in_bfloat16_on_float32_weights(pool: Pool):
    trainer = make_trainer(precision="bfloat16")
    state = trainer.init(KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves((state["params"], state["stats"]))} == {jnp.dtype("float32")}
    images = jnp.asarray(pool.images)
    logits = trainer.logits(state, images)
    exact = make_trainer().logits(state, images)
    assert logits.dtype == jnp.float32
    assert 0 < np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


def test_eval_mode_asks_each_sample_alone(pool: Pool):
    """The same logits whatever its neighbours are: no batch statistics."""
    trainer = make_trainer()
    state = take_steps(trainer, pool, 2)[-1]
    images = jnp.asarray(pool.images)
    alone = np.concatenate([trainer.logits(state, images[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(alone, trainer.logits(state, images)[:4], atol=1e-5)


def test_the_graph_needs_no_arrays():
    """A network is rebuilt without computing weights; they fit what `init` made."""
    trainer = make_trainer()
    state = trainer.init(KEY)
    model = nnx.merge(trainer.network._structure(trainer.compute)[0], state["params"], state["stats"])
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == sum(
        leaf.size for leaf in jax.tree.leaves(state["params"])
    )
