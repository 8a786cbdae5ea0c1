"""Networks of all kinds in JAX against themselves in PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bridge.graph import convert_module
from jaxmia.models import LOWERINGS, Compute, ensemble_attention, ensemble_conv
from tests.bridge.graph import zoo
from tests.bridge.graph.conftest import IMAGE, ROW, WORDS, Pair, pair, seeded
from tests.kernels import needs_kernels

KEY = jax.random.key(0)


def evaluated(both: Pair, batch: np.ndarray, compute: Compute):
    """Logits and statistics in evaluation."""
    apply = jax.jit(functools.partial(both.network.apply, compute=compute, train=False))
    return jax.device_get(apply(*both.init(), batch, KEY))


def test_logits_in_evaluation(both: Pair):
    torch.manual_seed(0)
    expected = type(both.module)().eval()(both.inputs).detach().numpy()
    _, stats = both.init()
    logits, after = evaluated(both, both.batch, Compute())
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    jax.tree.map(np.testing.assert_array_equal, after, stats)


def test_loss_gradients_and_statistics_of_a_training_step(both: Pair):
    expected, gradients, buffers = both.in_torch()
    (loss, stats), ours = jax.jit(both.step)(*both.init(), KEY)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    ours, stats = (both.named(jax.device_get(arrays)) for arrays in (ours, stats))
    assert set(ours) == set(gradients)
    # A bias before a normalisation has no gradient but rounding.
    floor = 1e-5 * max(float(value.abs().max()) for value in gradients.values())
    for name, value in gradients.items():
        limit = 1e-3 * max(float(value.abs().max()), floor)
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=max(limit, floor), err_msg=name)
    for name in stats:
        np.testing.assert_allclose(stats[name], buffers[name], rtol=1e-5, atol=1e-6, err_msg=name)
    moving = [name for name in buffers if "running" in name or "tracked" in name]
    assert set(moving) <= set(stats)


def test_member_of_an_ensemble_equals_that_model_alone(both: Pair):
    starts = [both.init(seed) for seed in (0, 1, 2)]
    stacked = jax.tree.map(lambda *values: np.stack(values), *starts)
    keys = jax.random.split(KEY, 3)
    (losses, stats), gradients = jax.device_get(jax.jit(jax.vmap(both.step))(*stacked, keys))
    assert len({float(loss) for loss in losses}) == 3
    (loss, own_stats), own = jax.device_get(jax.jit(both.step)(*starts[1], keys[1]))
    assert float(losses[1]) == pytest.approx(float(loss), rel=1e-5)
    largest = max(float(np.abs(value).max()) for value in own.values())
    for name, value in own.items():
        np.testing.assert_allclose(gradients[name][1], value, rtol=1e-3, atol=1e-5 * largest, err_msg=name)
    for name, value in own_stats.items():
        np.testing.assert_allclose(stats[name][1], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("lowering", [name for name in LOWERINGS if name not in ("unrolled", "native")])
@pytest.mark.parametrize("name", ["densenet", "senet"])
def test_every_lowering_gives_the_same(name: str, lowering):
    both = pair(name)
    batch = jnp.asarray(both.batch)
    stacked = jax.tree.map(lambda *values: np.stack(values), *(both.init(seed) for seed in (0, 1)))

    def logits(compute):
        return jax.jit(jax.vmap(lambda p, s: both.network.apply(p, s, batch, KEY, compute, train=False)[0]))(*stacked)

    np.testing.assert_allclose(logits(Compute(conv=ensemble_conv(lowering))), logits(Compute()), rtol=1e-4, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("factory", [lambda: zoo.ViT(dropout=0.2), lambda: zoo.TextClassifier(0.3)])
def test_attention_of_the_kernels_gives_the_same_gradients(factory):
    words = isinstance(factory(), zoo.TextClassifier)
    network = convert_module(factory(), WORDS if words else IMAGE, draw=seeded(factory), integers=words)
    batch = jnp.asarray(pair("text" if words else "vit").batch)
    stacked = jax.tree.map(lambda *values: np.stack(values), *(network._drawn(seed) for seed in (0, 1)))

    def gradients(compute):
        def loss(params, stats):
            return jnp.square(network.apply(params, stats, batch, KEY, compute, train=True)[0]).sum()

        return jax.jit(jax.vmap(jax.grad(loss)))(*stacked)

    exact, found = gradients(Compute()), gradients(Compute(attention=ensemble_attention("native")))
    largest = max(np.abs(value).max() for value in exact.values())
    for name, value in exact.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-5 * largest, err_msg=name)


@pytest.mark.parametrize(
    ("factory", "shape"),
    [
        (lambda: zoo.TableMLP(0.4), ROW),
        (lambda: zoo.ConvNeXt(drop=0.5), IMAGE),
        (lambda: zoo.TextClassifier(0.3), WORDS),
    ],
    ids=["dropout", "stochastic depth", "dropout of attention"],
)
def test_random_drops_have_the_distribution_of_pytorch(factory, shape):
    """Means and deviations of each logit over draws, within five standard errors."""
    rng, draws = np.random.default_rng(1), 300
    words = shape is WORDS
    batch = rng.integers(0, 30, (4, *shape), np.int32) if words else rng.normal(size=(4, *shape)).astype(np.float32)
    torch.manual_seed(0)
    module = factory()
    network = convert_module(module, shape, draw=seeded(factory), integers=words)
    params, stats = network._drawn(0)
    inputs = torch.tensor(batch).permute(0, 3, 1, 2) if len(shape) == 3 else torch.tensor(batch)
    torch.manual_seed(0)
    module = factory().train()
    with torch.no_grad():
        theirs = np.stack([module(inputs).numpy() for _ in range(draws)])

    def logits(key):
        return network.apply(params, stats, jnp.asarray(batch), key, Compute(), train=True)[0]

    ours = np.asarray(jax.jit(jax.vmap(logits))(jax.random.split(KEY, draws)))
    spread = theirs.std(0)
    assert (spread > 0).all()
    np.testing.assert_array_less(np.abs(ours.mean(0) - theirs.mean(0)), 5 * spread * np.sqrt(2 / draws))
    np.testing.assert_array_less(np.abs(ours.std(0) / spread - 1), 0.3)


def test_half_precision_stays_close():
    both = pair("vit")
    exact, _ = evaluated(both, both.batch, Compute())
    rough, _ = evaluated(both, both.batch.astype(jnp.bfloat16), Compute(jnp.dtype(jnp.bfloat16)))
    assert rough.dtype == jnp.float32
    assert not np.array_equal(rough, exact)
    np.testing.assert_allclose(rough, exact, rtol=0, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize("name", ["vgg", "convnext", "text"])
def test_half_precision_computes_in_it_throughout(name: str):
    both = pair(name)
    params, stats = both.init()
    half = Compute(jnp.dtype(jnp.bfloat16))
    batch = jnp.asarray(both.batch)
    program = jax.make_jaxpr(
        lambda batch: both.network.apply(
            params, stats, batch.astype(jnp.bfloat16) if batch.ndim == 4 else batch, KEY, half, train=True
        )
    )(batch)
    products = [line for line in str(program).splitlines() if "dot_general[" in line or "conv_general_dilated[" in line]
    assert products
    assert all("f32" not in line.partition("=")[0] for line in products)
