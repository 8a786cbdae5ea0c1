"""What a conversion keeps, refuses and says."""

import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from bridge.graph import convert_exported, convert_module
from bridge.graph.initial import by_factory
from jaxmia.errors import InputError
from jaxmia.models import Compute
from tests.bridge.graph import zoo
from tests.bridge.graph.conftest import IMAGE, ROW, pair, seeded
from tests.conftest import telling

KEY = jax.random.key(0)


class Own(nn.Module):
    """A table's network around one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(12, 16), layer, nn.Linear(16, 5)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner(self.first(rows)))


class Of(nn.Module):
    """A layer of a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.function(inputs)


def saved(module: nn.Module, shape: tuple[int, ...], *, train: bool = False, any_batch: bool = True) -> ExportedProgram:
    """A program as it comes back from a file."""
    file = io.BytesIO()
    sizes = ({0: Dim("sample", min=2)},) if any_batch else None
    program = torch.export.export(module.train(train), (torch.zeros(4, *shape),), dynamic_shapes=sizes)
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_program_of_a_file_trains_like_its_module_in_whichever_mode_it_was_exported(train: bool):
    both = pair("table")
    program = convert_exported(saved(both.module, ROW, train=train), ROW, draw=both.network.draw)
    batch = jnp.asarray(both.batch)
    params, stats = both.init()
    for mode in (True, False):
        expected, moved = both.network.apply(params, stats, batch, KEY, Compute(), train=mode)
        logits, ours = program.apply(params, stats, batch, KEY, Compute(), train=mode)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
        for name in (name for name in moved if "running" in name):
            np.testing.assert_allclose(ours[name], moved[name], rtol=1e-5, err_msg=name)


def test_program_exported_in_evaluation_drops_in_training():
    program = convert_exported(saved(zoo.TableMLP(0.5), ROW), ROW)
    params, stats = program.init(KEY)
    rows = jax.random.normal(KEY, (4, 12))
    one, other = (program.apply(params, stats, rows, key, Compute(), train=True)[0] for key in jax.random.split(KEY))
    assert not np.allclose(one, other)
    one, other = (program.apply(params, stats, rows, key, Compute(), train=False)[0] for key in jax.random.split(KEY))
    np.testing.assert_array_equal(one, other)


def test_program_of_one_batch_size_is_refused_with_the_way_to_export_it():
    """The way that the message shows serves. Batches of one sample cannot even be normalised."""
    alone = torch.export.export(zoo.TableMLP().eval(), (torch.zeros(1, 12),))
    with pytest.raises(InputError, match=r"^one\.pt2: takes batches of exactly 1, but shadow models need "):
        convert_exported(alone, ROW, source="one.pt2")
    with pytest.raises(
        InputError, match=r"^model\.pt2: takes batches of exactly 4, but shadow models need .*"
    ) as error:
        convert_exported(saved(zoo.TableMLP(), ROW, any_batch=False), ROW, source="model.pt2")
    call = re.search(r"torch\.export\.export\(.*\},\)\)", str(error.value))
    assert call
    exported = eval(call.group(), {"torch": torch, "network": zoo.TableMLP().eval(), "example": torch.zeros(2, 12)})
    program = convert_exported(exported, ROW)
    params, stats = program.init(KEY)
    assert program.apply(params, stats, jnp.ones((8, 12)), KEY, Compute(), train=True)[0].shape == (8, 5)


def test_module_that_fixes_its_batch_is_exported_for_each_size():
    network = convert_module(Own(Of(lambda x: x + torch.arange(int(x.shape[0])).sum() * 0)), ROW)
    params, stats = network.init(KEY)
    for size in (2, 5):
        assert network.apply(params, stats, jnp.ones((size, 12)), KEY, Compute(), train=True)[0].shape == (size, 5)


def test_missing_operators_are_named_with_the_module_in_which_they_stand():
    module = nn.Sequential(Own(Of(torch.special.gammaln)), nn.Sequential(Of(torch.special.i1)))
    with pytest.raises(InputError) as error:
        convert_module(module, ROW, source="shadow.architecture: 'own:make'")
    assert str(error.value) == (
        "shadow.architecture: 'own:make': has operators that cannot be computed in JAX: "
        "lgamma.default in 0.inner (Of); special_i1.default in 1.0 (Of)"
    )


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Own(Of(lambda x: x if x.sum() > 0 else -x)), r"^net: cannot be exported by torch\.export: \w+: "),
        (Of(lambda x: (x, x)), r"^net: cannot be exported .*gives 2 values, expected a batch and its logits$"),
        (Of(lambda x: x[:, None]), r"^net: gives \[.*, 1, 12\], expected logits \[sample, class\]$"),
        (nn.Linear(5, 2), r"^net: cannot be exported"),
    ],
    ids=["decides by its data", "two outputs", "three axes", "another input"],
)
def test_module_that_is_no_classifier_is_refused(module: nn.Module, message: str):
    with pytest.raises(InputError, match=message):
        convert_module(module, ROW, source="net")


def test_conversion_leaves_the_module_as_it_was():
    module = zoo.TableMLP().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    convert_module(module, ROW)
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_digest_tells_networks_apart():
    def digest(module):
        return convert_module(module, ROW).digest

    own = digest(zoo.TableMLP())
    assert digest(zoo.TableMLP()) == own
    assert len({own, digest(zoo.TableMLP(dropout=0.1)), digest(zoo.TableMLP(classes=4)), digest(Own(nn.ReLU()))}) == 4


def test_parameters_without_gradient_and_tables_of_indices_do_not_train():
    module = zoo.TextClassifier()
    module.norm.weight.requires_grad_(False)
    network = convert_module(module, (10,), integers=True)
    params, stats = network.init(KEY)
    assert "norm.weight" in stats
    assert {"norm.weight", "places"}.isdisjoint(params)
    assert "places" not in stats


def test_initial_weights_are_those_of_the_factory_under_a_seed_of_the_key():
    network = convert_module(zoo.LeNet(), IMAGE, draw=by_factory(zoo.LeNet))
    before = torch.get_rng_state()
    keys = jax.random.split(KEY, 3)
    alone = [network.init(key)[0] for key in keys]
    together, _ = jax.jit(jax.vmap(network.init))(keys)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(int(jax.random.bits(keys[1], (), jnp.uint32)))
    expected = zoo.LeNet().state_dict()
    name = "classifier.1.weight"
    np.testing.assert_array_equal(alone[1][name].T, expected[name])
    for number in range(3):
        np.testing.assert_array_equal(together[name][number], alone[number][name])
    assert not np.array_equal(alone[0][name], alone[1][name])


@pytest.mark.parametrize("kind", ["module", "program"])
def test_weights_of_a_trained_network_start_anew_as_pytorch_starts_them(kind: str):
    """A trained module and a program of a file forget what they learnt; bare parameters keep mean and spread alone."""
    trained = zoo.ViT(dropout=0.1)
    with torch.no_grad():
        for value in trained.parameters():
            value.mul_(3).add_(0.5)
        trained.position.copy_(torch.linspace(0, 2, trained.position.numel()).reshape(trained.position.shape))
    if kind == "module":
        network = convert_module(trained, IMAGE)
    else:
        network = convert_exported(saved(trained, (3, 16, 16)), IMAGE)
    ours = {name: value.detach().numpy() for name, value in network.draw(3).items()}
    torch.manual_seed(0)
    fresh = [zoo.ViT().state_dict() for _ in range(30)]
    for name, value in ours.items():
        if name in ("token", "position"):
            continue
        drawn = torch.stack([state[name] for state in fresh])
        assert value.std() == pytest.approx(drawn.std().item(), rel=0.5, abs=1e-6), name
        assert np.abs(value).max() <= 1.5 * drawn.abs().max().item(), name
    position = trained.position.detach()
    assert ours["position"].mean() == pytest.approx(position.mean().item(), abs=0.15)
    assert ours["position"].std() == pytest.approx(position.std().item(), rel=0.2)
    assert abs(np.corrcoef(ours["position"].ravel(), position.numpy().ravel())[0, 1]) < 0.3
    assert np.array_equal(ours["head.weight"], network.draw(3)["head.weight"].detach().numpy())
    assert not np.array_equal(ours["head.weight"], network.draw(4)["head.weight"].detach().numpy())


def test_program_of_a_file_names_what_it_cannot_tell_how_to_start(caplog):
    convert_exported(saved(zoo.ViT(), (3, 16, 16)), IMAGE, source="vit.pt2")
    told = [record for record in caplog.records if record.name == "bridge.graph.initial"]
    assert telling(told, "vit.pt2", "position, token") == ["WARNING"]
    assert len(told) == 1


def test_statistics_of_a_trained_program_start_anew():
    trained = zoo.TableMLP()
    trained.train()(torch.randn(64, 12) * 5 + 3)
    stats = convert_exported(saved(trained, ROW), ROW).init(KEY)[1]
    np.testing.assert_array_equal(stats["layers.1.running_mean"], np.zeros(24))
    np.testing.assert_array_equal(stats["layers.1.running_var"], np.ones(24))


def test_seeded_draws_of_a_factory_equal(rng):
    one, other = seeded(zoo.LeNet)(5), by_factory(zoo.LeNet)(5)
    assert all(torch.equal(one[name], other[name]) for name in other)
