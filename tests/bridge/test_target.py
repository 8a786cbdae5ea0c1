import os
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bridge.challenge import load_challenge, save_challenge
from bridge.identify import identify
from bridge.networks import build
from bridge.target import load_target, read_weights, save_target
from jaxmia.data.pool import Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.data.views import views
from jaxmia.errors import InputError
from jaxmia.models import Network
from jaxmia.training.query import query_target
from tests.bridge.test_convert import assert_agree, names, trained

MINI = Path(__file__).parents[3] / "shared" / "challenges" / "mini"
COURSE = Preprocessing(32, (0.7406, 0.5331, 0.7059), (0.1491, 0.1864, 0.1301))
COURSE_14 = Preprocessing(14, COURSE.mean, COURSE.std)
SMALL = Network("resnet8", (16, 16, 3), 9, width=4)


def images(count=7, shape=(14, 14, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def seen(preprocessing):
    return {"image_size": preprocessing.size, "mean": preprocessing.mean, "std": preprocessing.std}


def saved(module, tmp_path):
    save_target(module, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def by_hand(module, pixels, size, mean, std):
    """What torchvision's Resize and Normalize do, and then the network, one image at a time."""
    logits = []
    for image in pixels:
        plane = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
        plane = nn.functional.interpolate(plane, (size, size), mode="bilinear", antialias=True, align_corners=False)
        for channel in range(plane.shape[1]):
            plane[:, channel] = (plane[:, channel] - mean[channel]) / std[channel]
        with torch.no_grad():
            logits.append(module.eval()(plane)[0].numpy())
    return np.stack(logits)


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize(
    "network",
    [
        SMALL,
        Network("resnet18", (32, 32, 3), 9, width=8),
        Network("resnet18", (32, 32, 3), 5, width=8, stem="imagenet"),
        Network("cnn", (32, 32, 3), 9, width=4),
        Network("mlp", (32, 32, 3), 9, width=8),
    ],
    ids=names,
)
def test_query_is_resize_normalise_network(tmp_path, network, backend):
    module = trained(network)
    target = load_target(saved(module, tmp_path), network.architecture, backend=backend, **seen(COURSE))
    logits = target.query(images())
    assert logits.dtype == np.float32
    assert target.classes == network.classes
    assert_agree(logits, by_hand(module, images(), 32, COURSE.mean, COURSE.std))


def test_float_images_are_the_same_pixels(tmp_path):
    target = load_target(saved(trained(SMALL), tmp_path), "resnet8", image_size=16)
    assert_agree(target.query(images() / np.float32(255)), target.query(images()))


def test_the_batch_size_changes_nothing(tmp_path):
    target = load_target(saved(trained(SMALL), tmp_path), "resnet8")
    assert_agree(
        np.concatenate([target.query(images()[i : i + 1]) for i in range(len(images()))]), target.query(images())
    )


def test_images_that_are_resized_already_are_taken_as_they_are(tmp_path):
    target = load_target(saved(trained(SMALL), tmp_path), "resnet8", **seen(COURSE))
    assert np.array_equal(target.query(target.preprocessing.resized(images())), target.query(images()))


def test_the_converted_model_takes_preprocessed_images(tmp_path):
    target = load_target(saved(trained(SMALL), tmp_path), "resnet8", **seen(COURSE))
    assert target.model is not None
    pixels = COURSE(images())  # pyright: ignore[reportArgumentType]
    assert_agree(target.model(pixels, train=False), target.query(images()))  # pyright: ignore[reportCallIssue]


@pytest.mark.skipif(not MINI.is_dir(), reason="needs the mini challenge")
@pytest.mark.slow
def test_mini_challenge_has_equal_logits_and_accuracy_in_both():
    pool = load_challenge(MINI / "pub.pt", MINI / "priv.pt", num_classes=9)
    assert pool.images is not None
    chosen, labels = pool.images[400:500], pool.labels[400:500]
    mini = Preprocessing(32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    logits = {
        backend: load_target(MINI / "model.pt", "resnet18", backend=backend, **seen(mini)).query(chosen)
        for backend in ("jax", "torch")
    }
    assert_agree(logits["jax"], logits["torch"])
    accuracy = {backend: (values.argmax(1) == labels).mean() for backend, values in logits.items()}
    assert accuracy["jax"] == accuracy["torch"] > 0.5


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"net": state, "acc": 97.5},
        lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
        lambda state: {f"features.0.{name}": value for name, value in state.items()},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"_orig_mod.{name}": value for name, value in state.items()}},
        lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
        lambda state: {
            name: nn.Parameter(value) if value.is_floating_point() else value for name, value in state.items()
        },
    ],
)
def test_checkpoints_and_wrappers(tmp_path, wrap):
    module = trained(SMALL)
    torch.save(wrap(module.state_dict()), tmp_path / "model.pt")
    target = load_target(tmp_path / "model.pt", "resnet8")
    assert_agree(target.query(images()), load_target(saved(module, tmp_path), "resnet8").query(images()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"contains a list, expected a state_dict: tensors by name$"),
        ({}, r"contains a dict, expected a state_dict"),
        ({"fc.weight": [1.0]}, r"fc\.weight is a list, expected a tensor by name$"),
        (
            {"weights": {"fc.weight": torch.zeros(1)}},
            r"weights is a dict, expected a tensor by name; a state_dict inside is found under state_dict, model",
        ),
        ({"a\nb": torch.zeros(1)}, r"a\?b is a tensor of float32, expected a tensor by name$"),
        ({3: torch.zeros(1)}, r"3 is a tensor of float32, expected a tensor by name$"),
        ({"fc.weight": torch.tensor([1.0, float("nan")])}, r"fc\.weight contains values that are not finite$"),
        ({"fc.weight": torch.eye(3).to_sparse()}, r"fc\.weight is a sparse tensor, expected a tensor by name$"),
    ],
)
def test_no_state_dict(tmp_path, content, message):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(InputError, match=rf"model\.pt: {message}"):
        read_weights(tmp_path / "model.pt")


def test_a_pickled_network_is_refused_with_what_to_do(tmp_path):
    torch.save(build(SMALL), tmp_path / "model.pt")
    with pytest.raises(
        InputError,
        match=r"model\.pt: contains a whole torch\.nn\.Module, .*; save its weights with torch\.save\(model",
    ):
        load_target(tmp_path / "model.pt", "resnet8")


def test_another_depth_names_the_first_keys_and_what_fits(tmp_path):
    path = saved(build(SMALL), tmp_path)
    wanted = set(build(Network("resnet14", (16, 16, 3), 9, width=4)).state_dict()) - set(build(SMALL).state_dict())
    wanted = [name for name in wanted if "num_batches" not in name]
    with pytest.raises(
        InputError,
        match=rf"model\.pt as resnet14: lacks \S+; lacks \S+; lacks \S+; lacks \S+; and {len(wanted) - 4} more "
        r"differences; it fits resnet8$",
    ) as caught:
        load_target(path, "resnet14")
    assert {part.split("lacks ")[1] for part in str(caught.value).split("; ")[:4]} < set(wanted)


@pytest.mark.parametrize(
    "network",
    [
        Network("mlp", (4, 4, 3), 5, width=8),
        Network("cnn", (8, 8, 3), 5, width=4),
        Network("resnet8", (8, 8, 1), 5, width=4),
        Network("resnet20", (8, 8, 3), 5, width=4),
        Network("resnet18", (8, 8, 3), 5, width=4, stem="imagenet"),
        Network("resnet34", (8, 8, 3), 5, width=4),
        Network("wideresnet", (8, 8, 3), 5, width=1, depth=16),
    ],
    ids=lambda network: network.architecture,
)
def test_the_network_is_identified_by_its_weights(network):
    shapes = {f"{name}": tuple(value.shape) for name, value in build(network).state_dict().items()}
    found = identify(shapes, "model.pt")
    assert found.hidden_layers == network.hidden_layers, "which holds the width too"
    assert (found.architecture, found.classes, found.stem, found.depth) == (
        network.architecture,
        network.classes,
        network.stem,
        network.depth,
    )


def test_auto_loads_the_same_as_the_name(tmp_path):
    path = saved(build(SMALL), tmp_path)
    auto, named = (load_target(path, name, **seen(COURSE)) for name in ("auto", "resnet8"))
    np.testing.assert_array_equal(auto.query(images()), named.query(images()))
    assert auto.source.endswith("model.pt as resnet8")


def test_weights_of_an_unknown_network_name_the_nearest_and_the_first_differences(tmp_path):
    state = build(SMALL).state_dict()
    state["extra.weight"] = torch.zeros(3)
    del state["fc.bias"]
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(
        InputError,
        match=r"model\.pt: is not the state_dict of a built-in network; the nearest is resnet8: it lacks fc\.bias; "
        r"has extra\.weight, which the network does not have; for your own network set challenge\.architecture",
    ):
        load_target(tmp_path / "model.pt")


def test_weights_far_from_any_network_are_refused_in_a_few_hundred_characters(tmp_path):
    torch.save({f"layer.{i}": torch.zeros(1) for i in range(500)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"and \d+ more differences; ") as caught:
        load_target(tmp_path / "model.pt")
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", ["fc.weight", "conv1.weight", "fc1.weight", "blocks.0.bn1.weight"])
@pytest.mark.parametrize("shape", [(), (0,), (2**40, 2**40), (7, 0, 3)])
def test_absurd_shapes_fit_no_network(name, shape):
    with pytest.raises(InputError, match=r"m\.pt: is not the state_dict of a built-in network"):
        identify({name: shape, **{f"blocks.{i}.x": (1,) for i in range(10_000)}}, "m.pt")


def test_programs_are_distinguished_from_weights(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3, 2, 2),)), tmp_path / "model.pt2")
    with pytest.raises(
        InputError,
        match=r"model\.pt2: is an exported program, which may run code .* set challenge\.architecture exported",
    ):
        load_target(tmp_path / "model.pt2")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("s/data.pkl", "s/constants.pkl", "s/code/__torch__/net.py"):
            archive.writestr(name, b"")
    with pytest.raises(InputError, match=r"script\.pt: is a TorchScript program, which is not read; save its weights"):
        load_target(tmp_path / "script.pt", "resnet18")


def test_another_number_of_classes_is_refused(tmp_path):
    path = saved(build(SMALL), tmp_path)
    assert load_target(path, "resnet8", classes=9).classes == 9
    with pytest.raises(InputError, match=r"model\.pt as resnet8: has 9 classes, but challenge\.classes is 10$"):
        load_target(path, "resnet8", classes=10)


def test_an_unknown_architecture_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"challenge\.architecture: 'vgg' is none of auto, mlp, cnn, .*, exported, package"
    ):
        load_target(saved(build(SMALL), tmp_path), "vgg")


def test_images_of_other_channels_are_refused(tmp_path):
    for backend in ("jax", "torch"):
        target = load_target(saved(build(SMALL), tmp_path), "resnet8", backend=backend)
        with pytest.raises(InputError, match=r"model\.pt as resnet8: cannot take images of \(14, 14, 1\)"):
            target.query(images(shape=(14, 14, 1)))


def test_mean_and_std_must_match_the_channels(tmp_path):
    for backend in ("jax", "torch"):
        target = load_target(saved(build(SMALL), tmp_path), "resnet8", backend=backend, mean=(0.5, 0.5))
        with pytest.raises(InputError, match=r"mean has 2 values, allowed are 1 or one for each of 3 channels$"):
            target.query(images())


@pytest.fixture
def user_module(monkeypatch):
    module = types.ModuleType("user_networks")
    monkeypatch.setitem(sys.modules, "user_networks", module)
    return module


class Odd(nn.Module):
    """No network of ours."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Dropout(), nn.Tanh(), nn.Flatten(), nn.Linear(400, 2))

    def forward(self, pixels):
        return self.layers(pixels)


def test_a_network_of_the_user_s_own(tmp_path, user_module):
    torch.manual_seed(0)
    module = Odd()
    user_module.make = Odd
    target = load_target(saved(module, tmp_path), "user_networks:make", **seen(COURSE_14))
    assert_agree(target.query(images()), by_hand(module, images(), 14, COURSE.mean, COURSE.std))
    assert (target.classes, target.model) == (None, None)


def test_factories_that_do_not_serve(tmp_path, user_module):
    path = saved(build(SMALL), tmp_path)
    user_module.make = Odd
    user_module.number = lambda: 3
    for name, message in (
        ("no_such_module:make", r"cannot import 'no_such_module:make': ModuleNotFoundError: No module named"),
        (
            "user_networks:nothing",
            r"cannot import 'user_networks:nothing': AttributeError: module 'user_networks' has no",
        ),
        (":make", r"cannot import ':make'"),
        ("user_networks:number", r"'user_networks:number' gives a int, expected a torch\.nn\.Module$"),
    ):
        with pytest.raises(InputError, match=rf"challenge\.architecture: {message}"):
            load_target(path, name)
    with pytest.raises(
        InputError, match=r"model\.pt: lacks layers\.0\.weight; .*has conv1\.weight, which the network does not have"
    ):
        load_target(path, "user_networks:make")


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_an_exported_program(tmp_path, dynamic):
    module = trained(SMALL)
    shapes = {"images": {0: torch.export.Dim("batch", min=1, max=4096)}} if dynamic else None
    program = torch.export.export(module, (torch.zeros(4, 3, 14, 14),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "model.pt2")
    target = load_target(tmp_path / "model.pt2", "exported", **seen(COURSE_14))
    for count in (1, 4, 7):
        assert_agree(target.query(images(count)), by_hand(module, images(count), 14, COURSE.mean, COURSE.std))
    with pytest.raises(InputError, match=r"model\.pt2: cannot take images of \(14, 14, 1\)"):
        target.query(images(shape=(14, 14, 1)))


def test_an_exported_program_must_be_named_and_whole(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"no program")
    with pytest.raises(InputError, match=r"model\.pt2: is not a program of torch\.export\.save"):
        load_target(tmp_path / "model.pt2", "exported")
    with pytest.raises(InputError, match=r"none\.pt2: cannot be read: No such file or directory$"):
        load_target(tmp_path / "none.pt2", "exported")
    with pytest.raises(InputError, match=r"model\.pt2: is cut short or not a torch\.save file"):
        load_target(tmp_path / "model.pt2", "resnet18")


def test_a_challenge_s_file_in_place_of_the_target_is_recognised(tmp_path):
    count = len(images())
    pool = Pool(images(), np.zeros(count, np.int32), np.arange(count).astype(str), np.ones(count, np.int8))
    save_challenge(pool, tmp_path / "pub.pt", tmp_path / "priv.pt")
    with pytest.raises(
        InputError, match=r"pub\.pt: contains the samples of a challenge \(__main__\.\w+\), expected the w"
    ):
        load_target(tmp_path / "pub.pt")


def test_weights_that_would_run_code_are_refused(tmp_path, monkeypatch):
    class Runs:
        def __reduce__(self):
            return os.mkdir, ("ran",)

    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Runs()}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt: names posix\.mkdir, allowed are tensors; nothing of it was run$"):
        load_target(tmp_path / "model.pt", "resnet18")
    assert not (tmp_path / "ran").exists()


def test_an_exported_program_of_another_image_size_is_one_line(tmp_path):
    module = trained(SMALL)
    program = torch.export.export(module, (torch.zeros(2, *images().shape[:0:-1]),))
    torch.export.save(program, tmp_path / "model.pt2")
    target = load_target(tmp_path / "model.pt2", "exported", image_size=images().shape[1] + 3)
    with pytest.raises(InputError, match=r"model\.pt2: cannot take images of .*: ") as caught:
        target.query(images())
    assert "\n" not in str(caught.value)


def test_a_factory_that_takes_an_argument_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "networks_of_mine.py").write_text("def make(classes):\n    return None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = saved(trained(SMALL), tmp_path)
    with pytest.raises(InputError, match=r"'networks_of_mine:make' fails when called without arguments: TypeError: "):
        load_target(path, "networks_of_mine:make")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (torch.float8_e4m3fn, r"fc\.weight is a tensor of torch\.float8_e4m3fn, expected plain numbers"),
        (torch.complex32, r"fc\.weight is a tensor of torch\.complex32, expected plain numbers"),
    ],
)
def test_types_that_hold_no_plain_numbers_are_one_line(tmp_path, dtype, message):
    weights = trained(SMALL).state_dict()
    torch.save(weights | {"fc.weight": torch.zeros(3, 2).to(dtype)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=rf"model\.pt: {message}"):
        load_target(tmp_path / "model.pt", "resnet8")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_quantised_or_meta_tensor_is_named(tmp_path):
    quantised = torch.quantize_per_tensor(torch.zeros(3, 2), 0.1, 0, torch.qint8)
    for value, kind in ((quantised, "quantised tensor"), (torch.zeros(3, device="meta"), "meta tensor")):
        torch.save({"fc.weight": value}, tmp_path / "model.pt")
        with pytest.raises(InputError, match=rf"model\.pt: fc\.weight is a {kind}"):
            load_target(tmp_path / "model.pt", "resnet8")


def test_bfloat16_weights_are_those_numbers(tmp_path):
    rounded = {
        name: value.bfloat16() if value.is_floating_point() else value
        for name, value in trained(SMALL).state_dict().items()
    }
    torch.save(rounded, tmp_path / "half.pt")
    torch.save({name: value.float() for name, value in rounded.items()}, tmp_path / "whole.pt")
    half, whole = (load_target(tmp_path / f"{name}.pt", "resnet8").query(images()) for name in ("half", "whole"))
    np.testing.assert_array_equal(half, whole)


def test_a_tensor_with_a_gradient_is_no_answer_and_what_to_return_is_said():
    """NumPy's own message would speak of `tensor.detach().numpy()` somewhere in a traceback."""
    pool, layer = images(), nn.Linear(images()[0].size, 3)

    def target(batch: np.ndarray) -> torch.Tensor:
        return layer(torch.from_numpy(batch.reshape(len(batch), -1).astype(np.float32)))

    def ask(answer: Callable[[np.ndarray], Any]) -> np.ndarray:
        labels = np.zeros(len(pool), np.int64)
        return query_target(answer, pool, labels, views(("identity",)), len(pool))[0]

    with pytest.raises(InputError, match=r"^target: returned a Tensor .*; return a NumPy array, as by logits\.detach"):
        ask(target)
    assert ask(lambda batch: target(batch).detach()).shape == (1, len(pool))


def test_a_module_is_no_target_and_what_is_one_is_said():
    class Own(nn.Linear):
        pass

    complaint = r"target: a Own is a PyTorch module, .* NumPy batch .*, such as bridge.target.load_target\(...\).query$"
    with pytest.raises(InputError, match=complaint):
        query_target(Own(4, 2), np.zeros((3, 4), np.float32), np.zeros(3, np.int32), views(("identity",)), 3)
