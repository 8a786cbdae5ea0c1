import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxmia.models import Compute, Network, ensemble_conv
from jaxmia.models.small import MLP, Hidden
from jaxmia.models.wideresnet import WideResNet


def parameters(network: Network) -> int:
    model = nnx.eval_shape(lambda: network.build(nnx.Rngs(0)))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (Network("resnet18", (32, 32, 3), 10), 11_173_962),
        (Network("resnet18", (224, 224, 3), 1000, stem="imagenet"), 11_689_512),
        (Network("resnet34", (224, 224, 3), 1000, stem="imagenet"), 21_797_672),
        (Network("wideresnet", (32, 32, 3), 10, width=10), 36_479_194),
        (Network("wideresnet", (32, 32, 3), 10, width=2), 1_467_610),
        # 269,722 with free shortcuts, and here two 1x1 convolutions with their normalisation.
        (Network("resnet20", (32, 32, 3), 10), 269_722 + (16 * 32 + 64) + (32 * 64 + 128)),
        (Network("mlp", (8, 8, 1), 10, width=256), 64 * 256 + 256 + 256 * 256 + 256 + 2570),
    ],
    ids=lambda value: value.architecture if isinstance(value, Network) else str(value),
)
def test_networks_have_the_published_number_of_parameters(network: Network, count: int):
    assert parameters(network) == count


def naive_conv(images: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    return np.asarray(
        lax.conv_general_dilated(
            jnp.asarray(images),
            jnp.asarray(kernel),
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    )


def test_the_cnn_is_three_convolutions_with_normalisation():
    model = Network("cnn", (8, 8, 2), 3, width=4).build(nnx.Rngs(0))
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 2)).astype(np.float32)
    outputs = images
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        outputs = naive_conv(outputs, np.asarray(getattr(model, f"conv{number}").kernel[...]), stride)
        mean, var = outputs.mean((0, 1, 2)), outputs.var((0, 1, 2))
        outputs = np.maximum((outputs - mean) / np.sqrt(var + 1e-5), 0)
    expected = outputs.mean((1, 2)) @ np.asarray(model.fc.kernel[...]) + np.asarray(model.fc.bias[...])  # type: ignore[attr-defined]
    np.testing.assert_allclose(model(jnp.asarray(images), train=True), expected, atol=1e-4)  # type: ignore[operator]


@pytest.mark.parametrize("architecture", ["resnet8", "wideresnet"])
def test_logits_are_float32_and_each_class_and_stage_is_there(architecture):
    network = Network(architecture, (16, 16, 3), 7, width=None if architecture == "resnet8" else 1, depth=10)
    compute = Compute(jnp.dtype("bfloat16"), ensemble_conv("unrolled"))
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.bfloat16)
    logits = nnx.eval_shape(lambda x: network.build(nnx.Rngs(0), compute)(x, train=False), images)  # type: ignore[operator]
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)


def test_initial_weights_are_pytorchs():
    """Convolutions: normal, variance 2 / fan out. Dense: uniform within 1 / sqrt(fan in), biases too."""
    model = Network("resnet8", (8, 8, 3), 10, width=64).build(nnx.Rngs(0))
    kernel = np.asarray(model.blocks[-1].conv2.kernel[...])  # type: ignore[attr-defined]
    assert kernel.shape == (3, 3, 256, 256)
    assert kernel.std() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert abs(kernel).max() > 4 * kernel.std(), "normal, not uniform or truncated at two"
    for array in (model.fc.kernel[...], model.fc.bias[...]):  # type: ignore[attr-defined]
        assert np.abs(array).max() <= 1 / 16
        assert np.abs(array).max() > 0.6 / 16


@pytest.mark.parametrize("depth", [9, 11, 4, 0])
def test_a_depth_that_no_wideresnet_has_is_refused(depth: int):
    with pytest.raises(ValueError, match=rf"Expected depth 6 n \+ 4 .*, got {depth}\."):
        WideResNet(depth, 1, 10, compute=Compute(), rngs=nnx.Rngs(0))


def test_hidden_units_of_an_mlp_are_dropped_in_training_alone():
    """With the identity in place of each map, what is left of ones is 0 or 1 / (1 - rate), half of it at rate 1/2."""
    hidden = Hidden((200,), dropout=0.5)
    model = MLP(200, hidden, 200, compute=Compute(), rngs=nnx.Rngs(0))
    for layer in (model.fc1, model.fc2):  # type: ignore[attr-defined]
        layer.kernel[...], layer.bias[...] = jnp.eye(200), jnp.zeros(200)
    ones = jnp.ones((50, 200))
    np.testing.assert_array_equal(model(ones, train=False), ones)
    dropped = np.asarray(model(ones, train=True))
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert abs((dropped == 0).mean() - 0.5) < 5 * 0.5 / np.sqrt(dropped.size)
    assert (np.asarray(model(ones, train=True)) != dropped).any()


def test_programs_are_traced_from_a_structure_that_is_built_once(monkeypatch: pytest.MonkeyPatch):
    """A network of your own is built anew each time, since its code may change."""
    built: list[str] = []
    build = Network.build

    def count(self: Network, *arguments) -> nnx.Module:
        built.append(self.architecture)
        return build(self, *arguments)

    monkeypatch.setattr(Network, "build", count)
    own = "tests.models.own:told"
    for network in (Network("mlp", (5, 4, 1), 3, width=7), Network(own, (5, 4, 1), 3, width=7)):
        params, stats = jax.eval_shape(lambda network=network: network.init(jax.random.key(0), Compute()))
        built.clear()
        for train in (True, False, True):
            logits, _ = jax.eval_shape(
                lambda params, stats, images, network=network, train=train: network.apply(
                    params, stats, images, jax.random.key(1), Compute(), train=train
                ),
                params,
                stats,
                jax.ShapeDtypeStruct((2, 5, 4, 1), jnp.float32),
            )
            assert logits.shape == (2, 3)
        assert built == [network.architecture] * (3 if network.architecture == own else 1)
