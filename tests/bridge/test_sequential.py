"""Shadow models that PyTorch trains one after another, against those that JAX trains together."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bridge.graph.initial import by_factory
from bridge.networks import build
from bridge.open import open_pool, open_target
from bridge.trainable import Backend, digest_of, trainable_module, trainable_program
from jaxmia.api import train_shadows
from jaxmia.cli.main import main
from jaxmia.config import Augment, EnsembleConfig, Recipe, load_config
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.data.views import View, views
from jaxmia.errors import InputError
from jaxmia.leaderboard.submission import read_scores_csv
from jaxmia.models import Network, TrainableNetwork
from jaxmia.pipeline.stages import Pipeline
from jaxmia.runs.signals import Interrupted
from jaxmia.runs.store import Chunk, ScoreStore
from jaxmia.training.checkpoint import Checkpoints
from jaxmia.training.setup import ShadowSetup, shadow_setup
from tests.bridge import own
from tests.challenge import make_challenge, make_pool
from tests.conftest import telling

TOGETHER = EnsembleConfig(width=3, conv="unrolled", devices=1)
DTYPES = ("float64", "bfloat16")
RECIPE = Recipe(known=0, epochs=2, batch_size=8, learning_rate=0.05, label_smoothing=0.1, precision="float32")


strange_of_six = functools.partial(own.strange, 36)
classifier_of_six = functools.partial(own.classifier, side=6)


class Counting(nn.Module):
    """Counts its batches by giving its buffer anew, and shares a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(36, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.second.weight = nn.Parameter(torch.eye(8))
        self.third = nn.Linear(8, 8)
        self.third.weight = self.second.weight
        self.norm = nn.BatchNorm1d(8, momentum=None)  # type: ignore[arg-type]
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = self.seen + len(images)
        hidden = self.third(torch.tanh(self.second(torch.tanh(self.first(images.flatten(1))))))
        return self.head(self.norm(hidden))


class Complex(nn.Module):
    """Multiplies the spectrum of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(6, 4, dtype=torch.complex64)), nn.Linear(24, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head((torch.fft.rfft2(images[:, 0]) * self.weight).abs().flatten(1))


class Typed(nn.Module):
    """Computes in its own type, and has a large integer."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.head = nn.Linear(36, 3, dtype=dtype)
        self.register_buffer("large", torch.tensor(2**40 + 7))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.flatten(1).to(self.head.weight.dtype)) + (self.large - 2**40 - 7)


class Counts(nn.Module):
    """Counts its batches in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(36, 3)
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches += 1
        return self.head(images.flatten(1)) * (1 + self.batches)


class Grows(nn.Module):
    """Creates a buffer in its first training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(36, 3)
        self.register_buffer("mean", None)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = images.mean(0).detach()
        return self.head(images.flatten(1))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self, frozen: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 3)
        self.second.weight = self.first.weight
        self.head.weight.requires_grad_(not frozen)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(images.flatten(1))))))


@functools.cache
def network(factory: Any, backend: Backend = "auto") -> TrainableNetwork:
    return trainable_module(factory(), (6, 6, 1), draw=by_factory(factory), source="net", backend=backend)


def setup_of(network: TrainableNetwork, **changes: Any) -> ShadowSetup:
    recipe = RECIPE.model_copy(update={"architecture": "target", **changes})
    seen = Preprocessing(None, (0.4,), (0.3,))
    return shadow_setup(make_pool(), recipe, seen, 3, views=views(("identity", "hflip")), seed=5, network=network)


def setup(factory: Any, backend: Backend, **changes: Any) -> ShadowSetup:
    return setup_of(network(factory, backend), **changes)


def train(setup: ShadowSetup, models: list[int]) -> Chunk:
    return setup.shadow_trainer(setup.plan(TOGETHER, 3)).train_chunk(models)


@pytest.mark.parametrize(
    ("factory", "changes"),
    [
        (functools.partial(build, Network("cnn", (6, 6, 1), 3, width=3)), {"augment": Augment(crop=1, flip=True)}),
        (functools.partial(build, Network("mlp", (6, 6, 1), 3, width=8)), {"optimizer": "adamw", "ema": 0.8}),
        (functools.partial(build, Network("mlp", (6, 6, 1), 3, width=8)), {"momentum": 0.0, "warmup_epochs": 1.0}),
    ],
    ids=["augmentation", "adamw and averages", "no momentum"],
)
def test_models_are_those_that_jax_trains(factory: Any, changes: dict[str, Any]):
    ours, theirs = (train(setup(factory, backend, **changes), [0, 1, 2]) for backend in ("torch", "jax"))
    np.testing.assert_array_equal(ours.mask, theirs.mask)
    np.testing.assert_allclose(ours.phi, theirs.phi, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ours.extra["curve"][:, 0], theirs.extra["curve"][:, 0], rtol=1e-3, atol=1e-3)
    assert np.abs(ours.phi[0] - ours.phi[1]).min() > 0
    assert ours.phi.std() > 0.1


def test_a_model_does_not_depend_on_those_trained_with_it():
    """Dropout and statistics included."""
    one = setup(classifier_of_six, "torch")
    together = train(one, [0, 1, 2])
    np.testing.assert_array_equal(train(one, [1]).phi[0], together.phi[1])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("factory", [Complex, *(functools.partial(Typed, getattr(torch, kind)) for kind in DTYPES)])
def test_weights_and_buffers_keep_their_types(factory: Any, optimizer: str):
    """As PyTorch trains them, whose own optimizer would keep its memory in the type of the weights."""
    one = setup(factory, "torch", optimizer=optimizer, epochs=3, learning_rate=0.02)
    curve = train(one, [0]).extra["curve"][0]
    assert curve[-1, 1] < curve[0, 1], "the loss falls"


def test_a_query_leaves_the_state_as_it_is():
    one = setup(Counts, "torch")
    ensemble = one.ensemble(one.plan(TOGETHER, 1))
    state, index = ensemble.init([0]), np.arange(8)
    first, second = (np.asarray(ensemble.margins(state, index, View())[0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert state["stats"]["batches"] == 0


def test_frozen_weights_and_changed_code_belong_to_the_key():
    for backend in ("torch", "jax"):
        plain, frozen = (network(functools.partial(Tied, frozen), backend).describe() for frozen in (False, True))
        assert plain != frozen
    texts = ("return x.flatten(1) * 2", "return x.flatten(1) * 3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inspect.getsource", lambda kind: texts[0])
        before = digest_of(Tied())
        patch.setattr("inspect.getsource", lambda kind: texts[1])
        assert digest_of(Tied()) != before


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_that_was_interrupted_ends_as_if_it_had_not_been(optimizer: str, tmp_path: Path):
    one = setup(Counting, "torch", optimizer=optimizer, ema=0.9)
    whole = train(one, [3])
    trainer = one.shadow_trainer(one.plan(TOGETHER, 1))
    for steps in (3, 4):
        left = iter(range(steps))
        told = dataclasses.replace(trainer, stop_signal=lambda left=left: None if next(left, None) is not None else 15)
        with pytest.raises(Interrupted, match="are saved at step"):
            told.train_chunk([3], Checkpoints(tmp_path, one.cache_key(), 0))
    resumed = trainer.train_chunk([3], Checkpoints(tmp_path, one.cache_key(), 0))
    np.testing.assert_array_equal(resumed.phi, whole.phi)
    np.testing.assert_array_equal(resumed.extra["curve"], whole.extra["curve"])


@pytest.mark.parametrize(
    "module",
    [nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)), Tied()],
    ids=["normalised", "tied"],
)
def test_a_program_of_a_file_trains_as_it_does_in_jax(module: nn.Module):
    """Exported in evaluation, it trains in training."""
    module = module.eval()
    example, sizes = (torch.zeros(2, 1, 6, 6),), ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(module, example, dynamic_shapes=sizes)
    before = {name: value.clone() for name, value in program.state_dict.items()}
    ours, theirs = (
        train(setup_of(trainable_program(program, (6, 6, 1), source="net", backend=backend)), [0, 1])
        for backend in ("torch", "jax")
    )
    np.testing.assert_allclose(ours.phi, theirs.phi, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in program.state_dict.items()), "the target stays"


def test_what_jax_cannot_compute_is_trained_in_pytorch_and_said(caplog: pytest.LogCaptureFixture):
    gamma, decides = (network(factory) for factory in (strange_of_six, own.decides))
    told = [record for record in caplog.records if record.name == "bridge.trainable"]
    assert telling(told, "lgamma.default in 2 (_Strange)", "PyTorch on ", "one after another") == ["WARNING"]
    assert telling(told, "cannot be exported by torch.export", "one after another") == ["WARNING"]
    assert len({one.describe()["digest"] for one in (gamma, decides, network(strange_of_six, "torch"))}) == 2
    for one in (gamma, decides):
        curve = train(setup_of(one, epochs=6, learning_rate=0.02), [0]).extra["curve"][0]
        assert curve[-1, 1] < curve[0, 1], "the loss falls"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(5, 2), r"^net: cannot train on samples of \(6, 6, 1\): RuntimeError: mat1 and mat2 shapes"),
        (
            nn.Sequential(nn.Linear(6, 3)),
            r"^net: gives \[3, 1, 6, 3\] for 3 samples, expected logits \[sample, class\]$",
        ),
        (Grows(), r"^net: buffers have another shape after training on a batch: mean$"),
    ],
    ids=["another input", "no logits", "a new buffer"],
)
def test_a_module_that_is_no_classifier_is_refused(module: nn.Module, message: str):
    with pytest.raises(InputError, match=message):
        network(lambda: module, "torch")


def test_a_network_that_another_backend_trains_is_refused():
    backends: list[Backend] = ["torch", "jax"]
    for backend, other in zip(backends, reversed(backends), strict=True):
        with pytest.raises(InputError, match=rf"^shadow\.backend: {other}: the network is one that {backend} trains"):
            setup_of(network(classifier_of_six, backend), backend=other).cache_key()
    with pytest.raises(InputError, match=r"^shadow\.backend: torch: the network is one that jax trains"):
        train_shadows(make_pool(), RECIPE.model_copy(update={"architecture": "mlp", "backend": "torch"}))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target with an operator that JAX does not have, attacked by shadows of its own network."""
    folder = tmp_path_factory.mktemp("strange")
    path = make_challenge(
        folder,
        challenge={"architecture": "tests.bridge.own:strange", "image_size": 8},
        shadow={"architecture": "target", "width": None, "count": 6, "epochs": 2, "batch_size": 8},
        query={"views": ["identity"]},
        ensemble={"keep_weights": True, "width": 2, "devices": 1},
    )
    # In place of the target that goes with it.
    torch.save(own.strange().state_dict(), folder / "model.pt")
    return path


def test_a_run_goes_from_the_files_to_a_submission(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """In shards and at once, from the command line and from Python; later in another view."""
    for shard in ("0/2", "1/2"):
        main(["train", "--config", str(config), "--out", str(tmp_path / "run"), "--shard", shard])
    main(["run", "--config", str(config), "--out", str(tmp_path / "run")])
    shown = capsys.readouterr().err
    assert "lgamma.default in 2 (_Strange); its shadow models are trained in PyTorch on" in " ".join(shown.split())
    assert len(read_scores_csv(tmp_path / "run/submission.csv")[0]) == 40
    stored = ScoreStore(tmp_path / "run/shadows").read()
    assert stored.metadata["plan"].startswith("one after another in PyTorch on ")
    assert stored.metadata["cache_key"]["network"]["backend"] == "torch"

    settings = load_config(config)
    pool, target = open_pool(settings.challenge), open_target(settings.challenge)
    recipe, names = settings.shadow, settings.query.views
    network = target.shadow_network(pool.images_to("train on"))
    shadows = train_shadows(pool, recipe, target.preprocessing, 3, symmetries=names, network=network)
    np.testing.assert_array_equal(stored.phi, shadows.phi)
    assert len({row.tobytes() for row in shadows.phi}) == 6

    main(["query", "--config", str(config), "--out", str(tmp_path / "run"), "--query.views", "[identity, hflip]"])
    np.testing.assert_array_equal(ScoreStore(tmp_path / "run/shadows").read().phi[:, 0], shadows.phi[:, 0])


def test_a_run_in_jax_alone_is_refused_before_anything_is_written(config: Path, tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", str(config), "--out", str(tmp_path / "run"), "--shadow.backend", "jax"])
    assert stop.value.code == 1
    line = " ".join(capsys.readouterr().err.split())
    assert "lgamma.default in 2 (_Strange); shadow.backend: auto trains such networks in PyTorch" in line
    assert not (tmp_path / "run/shadows").exists()


def test_a_search_for_a_recipe_trains_in_pytorch_too(config: Path, tmp_path: Path):
    fields = ["--match.models", "2", "--match.trials", "1", "--match.epochs", "[1, 2]", "--match.learning_rate", "0.1"]
    main(["match", "--config", str(config), "--out", str(tmp_path), *fields])
    assert load_config(tmp_path / "matched.yaml").shadow.architecture == "target"


def test_pytorch_trains_the_built_in_networks_too(tmp_path: Path):
    path = make_challenge(tmp_path, shadow={"count": 2, "epochs": 1, "backend": "torch", "precision": "float32"})
    found = {}
    for backend in ("torch", "jax"):
        out = tmp_path / backend
        main(["train", "--config", str(path), "--out", str(out), "--shadow.backend", backend])
        found[backend] = ScoreStore(out / "shadows").read()
    np.testing.assert_array_equal(found["torch"].mask, found["jax"].mask)
    assert "network" not in found["jax"].metadata["cache_key"]
    with pytest.raises(InputError, match=r"network\.backend is"):
        Pipeline(load_config(path), tmp_path / "jax").train()
    own_flax = {"architecture": "tests.models.own:Plain", "width": None}
    flax = make_challenge(tmp_path / "flax", shadow={**own_flax, "backend": "torch"})
    with pytest.raises(InputError, match=r"^shadow\.backend: torch: 'tests.models.own:Plain' is a network in Flax"):
        Pipeline(load_config(flax), tmp_path / "flax/run").train()
