"""Shadow models of the target's own network, whatever it is, from the files to a submission."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from bridge.open import open_pool, open_target
from bridge.shadows import shadow_network
from jaxmia.api import train_shadows
from jaxmia.config import Config, EnsembleConfig, load_config
from jaxmia.errors import InputError
from jaxmia.leaderboard.submission import read_scores_csv
from jaxmia.models import Network
from jaxmia.pipeline.run import run
from jaxmia.pipeline.shard import Shard
from jaxmia.pipeline.stages import Pipeline
from jaxmia.runs.store import ScoreStore
from tests.bridge.own import save_program, save_weights
from tests.challenge import make_challenge, make_pool

OWN = "tests.bridge.own:classifier"


def challenge(folder: Path, kind: str = "factory", attack: str = "margin", **changes) -> Config:
    """A challenge whose target is a small network of the user's own, in PyTorch; images are resized to 8 x 8."""
    section = {"architecture": OWN if kind == "factory" else "exported", "image_size": 8}
    recipe = {"architecture": "target", "width": None, "epochs": 2, "batch_size": 8, **changes}
    path = make_challenge(
        folder,
        challenge=section,
        shadow=recipe,
        query={"batch_size": 32, "views": ["identity"]},
        attack={"name": attack},
    )
    config, target = load_config(path), folder / ("weights.pt" if kind == "factory" else "model.pt2")
    if kind == "factory":
        save_weights(target)
    else:
        save_program(target, batch=None if kind == "program" else 3)
    return config.model_copy(update={"challenge": config.challenge.model_copy(update={"target": target})})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    folder = tmp_path_factory.mktemp("own")
    config = challenge(folder, attack="lira-online-global")
    config = config.model_copy(update={"ensemble": config.ensemble.model_copy(update={"keep_weights": True})})
    run(config, folder / "run")
    return config, folder / "run"


def test_run_with_a_network_of_your_own_in_pytorch_ends_in_a_submission(finished: tuple[Config, Path]):
    config, out = finished
    ids, scores = read_scores_csv(out / "submission.csv")
    assert len(ids) == 40
    assert len(set(scores)) > 30
    stored = ScoreStore(out / "shadows").read()
    assert stored.phi.shape == (8, 1, 80)
    assert len({row.tobytes() for row in stored.phi}) == 8
    assert set(stored.metadata["cache_key"]["network"]) == {"digest"}
    assert config.shadow.architecture == "target"


def test_library_trains_the_same_shadows(finished: tuple[Config, Path]):
    config, out = finished
    pool, target = open_pool(config.challenge), open_target(config.challenge)
    shadows = train_shadows(
        pool,
        config.shadow,
        target.preprocessing,
        3,
        symmetries=config.query.views,
        ensemble=EnsembleConfig(width=4, devices=1, conv="unrolled"),
        seed=config.seed,
        network=target.shadow_network(pool.images_to("train on")),
    )
    np.testing.assert_allclose(ScoreStore(out / "shadows").read().phi, shadows.phi, rtol=1e-4, atol=1e-4)


def test_shards_and_the_factory_named_for_shadows_give_the_same_models(finished: tuple[Config, Path], tmp_path: Path):
    config, out = finished
    named = config.model_copy(update={"shadow": config.shadow.model_copy(update={"architecture": OWN})})
    for number in (0, 1):
        Pipeline(named, tmp_path).train(Shard(number, 2))
    ours = ScoreStore(tmp_path / "shadows").read()
    np.testing.assert_allclose(ours.phi, ScoreStore(out / "shadows").read().phi, rtol=1e-4, atol=1e-4)


def test_kept_weights_are_asked_again(finished: tuple[Config, Path]):
    config, out = finished
    before = ScoreStore(out / "shadows").read().phi
    wider = config.model_copy(update={"query": config.query.model_copy(update={"views": ("identity", "hflip")})})
    run(wider, out)
    after = ScoreStore(out / "shadows").read().phi
    run(config, out)
    assert after.shape == (8, 2, 80)
    np.testing.assert_allclose(after[:, 0], before[:, 0], rtol=1e-5, atol=1e-5)


def test_another_network_is_another_run(finished: tuple[Config, Path]):
    config, out = finished
    other = config.challenge.model_copy(update={"architecture": "tests.bridge.own:wider"})
    save_weights(Path(str(other.target)).with_name("wider.pt"), channels=6)
    other = other.model_copy(update={"target": Path(str(other.target)).with_name("wider.pt")})
    with pytest.raises(InputError, match=r"was created with another configuration: .*network\.digest is"):
        Pipeline(config.model_copy(update={"challenge": other}), out).train()


def test_exported_program_trains_shadows_of_itself(tmp_path: Path):
    run(challenge(tmp_path, "program", count=2, epochs=1), tmp_path / "run")
    assert ScoreStore(tmp_path / "run" / "shadows").read().phi.shape == (2, 1, 80)
    assert (tmp_path / "run" / "submission.csv").exists()


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_program_of_fixed_batches_says_at_once_how_to_export_it(tmp_path: Path, backend: str):
    message = r"^\S+model\.pt2: takes batches of exactly 3, but shadow models need .*dynamic_shapes=\(\{0: torch\.exp"
    pipeline = Pipeline(challenge(tmp_path, "fixed", backend=backend), tmp_path / "run")
    with pytest.raises(InputError, match=message):
        _ = pipeline.setup


def test_target_of_a_known_architecture_is_described_by_its_weights(tmp_path: Path):
    config = load_config(make_challenge(tmp_path, shadow={"architecture": "target", "width": None}))
    target, samples = open_target(config.challenge), make_pool().images_to("train on")
    network = shadow_network(config.shadow, target, samples, 3)
    expected = Network("mlp", (6, 6, 1), 3, width=8)
    assert isinstance(network, Network)
    assert network == dataclasses.replace(expected, width=None, hidden=expected.hidden_layers)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.bridge.own:fails", r"^shadow\.architecture: '.*:fails' fails: ValueError: no such size$"),
        ("tests.bridge.own:wide", r"^shadow\.architecture: gives 7 logits, the target has 3 classes$"),
        ("tests.bridge.own:strange", r"^shadow\.architecture: '.*:strange': has operators that cannot be comp"),
        ("tests.bridge.own:nothing", r"^shadow\.architecture: '.*:nothing' returns a int, expected a flax"),
    ],
)
def test_factory_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, name: str, message: str):
    config = challenge(tmp_path, architecture=name, backend="jax")
    with pytest.raises(InputError, match=message) as error:
        run(config, tmp_path / "run")
    assert "\n" not in str(error.value)


def test_library_asks_for_the_network_of_a_target(tmp_path: Path):
    config = load_config(make_challenge(tmp_path, shadow={"architecture": "target", "width": None}))
    with pytest.raises(InputError, match=r"^shadow\.architecture: target: the target's network is not given"):
        train_shadows(make_pool(), config.shadow, classes=3)


def test_configuration_is_stored_as_it_was_given(finished: tuple[Config, Path]):
    _, out = finished
    assert load_config(out / "config.yaml").shadow.architecture == "target"
    assert json.loads((out / "metrics.json").read_text())
