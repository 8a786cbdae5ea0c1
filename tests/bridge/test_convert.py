from typing import get_args

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from flax.traverse_util import flatten_dict
from torch import nn

from bridge.convert import check_fit, to_nnx, torch_shapes
from bridge.networks import TORCH_NETWORKS, build, describe
from jaxmia.config import Architecture
from jaxmia.errors import InputError
from jaxmia.models import NETWORKS as BUILT_IN
from jaxmia.models import Network
from jaxmia.models.small import Hidden

NETWORKS = [
    Network("mlp", (6, 5, 3), 4, width=16),
    Network("mlp", (6, 5, 3), 4, hidden=Hidden((9, 7, 5), norm="batch")),
    Network("mlp", (6, 5, 3), 4, hidden=Hidden((9,), norm="layer")),
    Network("cnn", (12, 11, 1), 4, width=4),
    Network("resnet8", (16, 15, 3), 9, width=4),
    Network("resnet14", (16, 16, 3), 9, width=4),
    Network("resnet20", (16, 16, 1), 2, width=4),
    Network("resnet18", (17, 16, 3), 9, width=8),
    Network("resnet18", (33, 40, 3), 9, width=8, stem="imagenet"),
    Network("resnet34", (16, 16, 3), 9, width=4),
    Network("wideresnet", (16, 16, 3), 9, width=1, depth=16),
]
SOME = [network for network in NETWORKS if network.architecture in ("mlp", "cnn", "resnet8", "wideresnet")]


@nnx.jit(static_argnames="train")
def jax_logits(model, images, train):
    return model(images, train=train)


@nnx.jit(static_argnames="network")
def fresh(network):
    return network.build(nnx.Rngs(0))


def names(network):
    hidden = network.hidden
    return f"{network.architecture}-{network.stem}" + (f"-{hidden.norm}-{hidden.activation}" if hidden else "")


def trained(network, seed=0, steps=6):
    """A PyTorch network after a few steps, so that no statistic and no bias is where it began."""
    torch.manual_seed(seed)
    module = build(network)
    optimizer = torch.optim.SGD(module.parameters(), 0.02, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    height, width, channels = network.shape
    for _ in range(steps):
        images = torch.randn(16, channels, height, width, generator=generator) * 2 + 1
        labels = torch.randint(network.classes, (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images), labels).backward()
        optimizer.step()
    return module.eval()


def arrays_of(model):
    """The arrays of an NNX network by attribute path."""
    return {path: np.asarray(leaf) for path, leaf in flatten_dict(nnx.to_pure_dict(nnx.state(model))).items()}


def batch(network, count=8, seed=1):
    return np.random.default_rng(seed).normal(size=(count, *network.shape)).astype(np.float32)


def torch_logits(module, images):
    with torch.no_grad():
        return module(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def assert_agree(logits, reference):
    assert np.abs(np.asarray(logits) - reference).max() <= 1e-4 * np.abs(reference).max()


@pytest.mark.parametrize("network", NETWORKS, ids=names)
def test_converted_logits_agree(network):
    module = trained(network)
    images = batch(network)
    reference = torch_logits(module, images)
    assert np.ptp(reference, axis=0).min() > 1e-3  # the images are told apart
    assert_agree(jax_logits(to_nnx(network, module.state_dict()), images, train=False), reference)


@pytest.mark.parametrize("network", SOME, ids=names)
def test_batch_statistics_in_training_agree(network):
    module = trained(network)
    model = to_nnx(network, module.state_dict())
    images = batch(network, count=32)
    reference = torch_logits(module.train(), images)
    assert_agree(jax_logits(model, images, train=True), reference)
    theirs = arrays_of(to_nnx(network, module.state_dict()))
    for path, value in arrays_of(model).items():
        np.testing.assert_allclose(value, theirs[path], rtol=1e-4, atol=1e-5, err_msg=str(path))


@pytest.mark.parametrize("network", NETWORKS, ids=names)
def test_every_value_arrives_unchanged(network):
    state = {name: value for name, value in trained(network).state_dict().items() if "num_batches" not in name}
    arrived = arrays_of(to_nnx(network, state)).values()
    assert len(arrived) == len(state)
    ours, theirs = (np.concatenate([np.ravel(value) for value in values]) for values in (arrived, state.values()))
    np.testing.assert_array_equal(np.sort(ours), np.sort(theirs))


@pytest.mark.parametrize("network", SOME[:3], ids=names)
def test_fresh_weights_are_spread_as_in_pytorch(network):
    ours, theirs = arrays_of(fresh(network)), arrays_of(to_nnx(network, build(network).state_dict()))
    assert ours.keys() == theirs.keys()
    for path, value in theirs.items():
        if value.ndim > 1 and value.size > 100:
            assert ours[path].std() == pytest.approx(value.std(), rel=0.3), path
        if value.ndim == 1 and "fc" not in str(path):
            np.testing.assert_array_equal(ours[path], value, err_msg=str(path))


@pytest.mark.parametrize("network", NETWORKS, ids=names)
def test_everything_is_read_from_the_weights(network):
    shapes = {name: tuple(value.shape) for name, value in build(network).state_dict().items()}
    found = describe(network.architecture, shapes)
    assert (found.classes, found.stem) == (network.classes, network.stem)
    if network.architecture == "mlp":
        assert found.hidden_layers == network.hidden_layers
    else:
        assert found.width == network.width
    assert np.prod(found.shape) == np.prod(network.shape if network.architecture == "mlp" else network.shape[2])
    if network.architecture == "wideresnet":
        assert found.depth == network.depth
    assert torch_shapes(found) == {name: shape for name, shape in shapes.items() if "num_batches" not in name}


def test_widths_that_are_left_open_are_the_architecture_s_own():
    for architecture in ("mlp", "cnn", "resnet8", "resnet18", "wideresnet"):
        network = Network(architecture, (8, 8, 3), 5)
        model = nnx.eval_shape(lambda network=network: network.build(nnx.Rngs(0)))
        count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        assert sum(value.numel() for value in build(network).parameters()) == count


def test_the_tables_hold_what_the_configuration_takes():
    assert list(BUILT_IN) == list(TORCH_NETWORKS) == list(get_args(Architecture))


def test_torchvision_s_keys():
    shapes = torch_shapes(Network("resnet18", (32, 32, 3), 9))
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert shapes["layer2.0.downsample.1.running_var"] == (128,)
    assert shapes["layer4.1.conv2.weight"] == (512, 512, 3, 3)
    assert shapes["fc.weight"] == (9, 512)
    assert len(shapes) == 102
    assert len(torch_shapes(Network("resnet34", (32, 32, 3), 9))) == 182


def test_every_kind_of_misfit_is_named():
    network = Network("resnet8", (16, 16, 3), 9, width=4)
    state = build(network).state_dict()
    state["layer2.0.conv1.weight"] = torch.zeros(8, 4, 5, 5)
    state["layer9.extra"] = torch.zeros(1)
    del state["bn1.running_var"], state["fc.bias"]
    with pytest.raises(
        InputError,
        match=r"^m\.pt: lacks bn1\.running_var; has layer9\.extra, which the network does not have; "
        r"layer2\.0\.conv1\.weight is \(8, 4, 5, 5\), expected \(8, 4, 3, 3\); lacks fc\.bias$",
    ):
        to_nnx(network, state, source="m.pt")


def test_batch_counters_may_be_missing():
    network = Network("resnet8", (16, 16, 3), 9, width=4)
    state = {name: value for name, value in build(network).state_dict().items() if "num_batches" not in name}
    assert to_nnx(network, state) is not None


def test_converted_weights_are_a_copy():
    network = Network("mlp", (2, 2, 1), 3, width=4)
    module = build(network)
    model = to_nnx(network, module.state_dict())
    before = torch_logits(module, batch(network))
    with torch.no_grad():
        for value in module.parameters():
            value.zero_()
    assert_agree(jax_logits(model, batch(network), train=False), before)


def test_half_precision_weights_are_widened():
    network = Network("mlp", (2, 2, 1), 3, width=4)
    state = {name: value.half() for name, value in build(network).state_dict().items()}
    model = to_nnx(network, state)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(nnx.state(model)))


def test_fitting_shapes_pass():
    check_fit({"a": (1, 2)}, {"a": (1, 2), "b.num_batches_tracked": ()}, "m.pt")
