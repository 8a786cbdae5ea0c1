"""Pools of features and of token ids, from the files to the report."""

from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from bridge.challenge import load_challenge, save_challenge
from bridge.networks import build
from bridge.open import open_pool, open_target
from bridge.table import save_table
from bridge.target import save_target
from jaxmia.api import attack, train_shadows
from jaxmia.config import Config, EnsembleConfig, Recipe, parse_config
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.models import Network
from jaxmia.models.small import Hidden
from jaxmia.pipeline.run import query, run
from jaxmia.runs.metrics import RunMetrics
from jaxmia.runs.store import ScoreStore

HIDDEN = Hidden((12, 8), norm="batch")
BY_HAND = EnsembleConfig(width=2, devices=1, conv="unrolled")


def make_rows(count: int = 80) -> Pool:
    """Rows of three classes on scales far apart; the first half is public."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count).astype(np.int32)
    rows = rng.normal(labels[:, None], 1, (count, 5)) * [1, 1000, 0.001, 1, 1]
    known = rng.permutation(np.repeat([0, 1], count // 4))
    membership = np.concatenate([known, np.full(count - len(known), -1)]).astype(np.int8)
    return Pool(rows.astype(np.float32), labels, np.array([f"row-{i}" for i in range(count)]), membership)


def challenge(folder: Path, suffix: str = "npz", **section) -> Config:
    pool = make_rows()
    files = {"public": folder / f"pub.{suffix}", "private": folder / f"priv.{suffix}"}
    if suffix == "npz":
        save_challenge(pool, files["public"], files["private"])
    else:
        for path, chosen in zip(files.values(), (pool.public, ~pool.public), strict=True):
            save_table(pool.take(chosen), path, list("abcde"))
    save_target(build(Network("mlp", (5,), 3, hidden=HIDDEN)), folder / "model.pt")
    return parse_config(
        {
            "challenge": {**files, "target": folder / "model.pt", "architecture": "mlp", **section},
            "shadow": {"architecture": "mlp", "hidden": [12, 8], "norm": "batch", "dropout": 0.2}
            | {"count": 8, "epochs": 3, "batch_size": 8},
            "ensemble": BY_HAND.model_dump(),
            "attack": {"name": "lira-online-global"},
        },
        "test",
    )


@pytest.mark.parametrize("suffix", ["npz", "csv"])
def test_a_table_goes_from_its_files_to_the_report(tmp_path: Path, suffix: str):
    config, out = challenge(tmp_path, suffix, scaling="pool"), tmp_path / "run"
    run(config, out)
    stored = ScoreStore(out / "shadows").read()
    assert stored.phi.shape == (8, 1, 80)
    page = (out / "report.html").read_text()
    assert "data:image/png" not in page
    assert RunMetrics.read(out).guessing
    assert "the attack cannot be told from guessing" in page

    pool, target = open_pool(config.challenge), open_target(config.challenge)
    shadows = train_shadows(pool, config.shadow, target.preprocessing, target.classes, ensemble=BY_HAND)
    np.testing.assert_array_equal(stored.mask, shadows.mask)
    np.testing.assert_array_equal(stored.phi, shadows.phi)
    assert attack(pool, target.query, shadows, "margin").scores.shape == (80,)


def test_other_samples_are_scaled_as_those_that_kept_shadows_were_trained_on(tmp_path: Path):
    """Of the private samples a half is replaced by others of a hundred times the spread."""
    config = challenge(tmp_path, scaling="pool", classes=3)
    ensemble = config.ensemble.model_copy(update={"keep_weights": True})
    recipe = config.shadow.model_copy(update={"known": 0.0})
    config = config.model_copy(update={"shadow": recipe, "ensemble": ensemble})
    run(config, tmp_path / "kept")
    pool, rng = make_rows(), np.random.default_rng(1)
    rows = pool.images_to("query").copy()
    rows[60:] = rng.normal(0, 100, (20, 5))
    ids = np.array([*pool.ids[:60], *[f"new-{i}" for i in range(20)]])
    files = {"public": tmp_path / "pub-2.npz", "private": tmp_path / "priv-2.npz"}
    save_challenge(Pool(rows, pool.labels, ids, pool.membership), files["public"], files["private"])
    other = config.model_copy(update={"challenge": config.challenge.model_copy(update=files)})
    query(other, tmp_path / "other", shadows=tmp_path / "kept")
    before, after = (ScoreStore(tmp_path / name / "shadows").read() for name in ("kept", "other"))
    np.testing.assert_array_equal(after.mask[:, :60], before.mask[:, :60])
    assert not after.mask[:, 60:].any()
    np.testing.assert_allclose(after.phi[:, :, :60], before.phi[:, :, :60], atol=1e-5)
    of_target = [np.load(tmp_path / name / "target.npz")["phi"][:, :60] for name in ("kept", "other")]
    np.testing.assert_allclose(*of_target, atol=1e-5)
    given = other.challenge.model_copy(update={"scaling": "given"})
    with pytest.raises(InputError, match=r"challenge\.scaling: given, but the models of .* were trained with pool"):
        query(other.model_copy(update={"challenge": given}), tmp_path / "given", shadows=tmp_path / "kept")


@pytest.mark.parametrize("suffix", ["npz", "csv"])
def test_a_target_in_pytorch_and_in_jax_sees_the_same_rows(tmp_path: Path, suffix: str):
    config = challenge(tmp_path, suffix, mean=[0, 0, 0, 1, 0], std=[1, 1000, 0.001, 1, 1])
    pool = open_pool(config.challenge)
    rows = pool.images_to("query")
    here = open_target(config.challenge).query(rows)
    there = open_target(config.challenge.model_copy(update={"backend": "torch"})).query(rows)
    np.testing.assert_allclose(here, there, atol=1e-4 * np.abs(there).max())
    unscaled = open_target(config.challenge.model_copy(update={"mean": None, "std": None})).query(rows)
    assert np.abs(unscaled - there).max() > 0.1 * np.abs(there).max()


@pytest.mark.parametrize(
    ("section", "shadow", "message"),
    [
        ({"image_size": 8}, {}, r"image_size: rows of features cannot be resized, leave it out"),
        ({"mean": [1, 2]}, {}, r"mean has 2 values, allowed are 1 or one for each of 5 features"),
        (
            {},
            {"augment": {"flip": True}},
            r"shadow\.augment: rows of features cannot be augmented; leave out crop, flip",
        ),
        (
            {},
            {"architecture": "cnn", "hidden": [], "norm": "none", "dropout": 0},
            r"cnn does not take rows of features",
        ),
    ],
)
def test_what_only_images_have_is_refused_before_anything_is_trained(tmp_path, section, shadow, message):
    config = challenge(tmp_path, **section)
    content = config.model_dump()
    content["shadow"].update(shadow)
    with pytest.raises(InputError, match=message):
        run(parse_config(content, "test"), tmp_path / "run")
    assert not (tmp_path / "run" / "shadows").exists()


@pytest.mark.parametrize("name", ["pub.pt", "pub.npz"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_library_target_sees_the_numbers_that_were_written(tmp_path: Path, name: str, dtype: type):
    """A float pool of zeros and ones came back from its file as 0 and 255."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2, (40, 1, 6, 1)).astype(dtype)
    membership = np.repeat(np.array([0, 1, -1], np.int8), [10, 10, 20])
    labels = np.arange(40, dtype=np.int32) % 3
    pool = Pool(images, labels, np.array([f"s{i}" for i in range(40)]), membership)
    if dtype == np.uint8 and name.endswith(".pt"):
        pytest.skip("the course's files hold floats")
    save_challenge(pool, tmp_path / name, tmp_path / f"priv-{name}")
    again = load_challenge(tmp_path / name, tmp_path / f"priv-{name}")
    seen = []

    def target(batch: np.ndarray) -> np.ndarray:
        seen.append(batch)
        return rng.normal(size=(len(batch), 3)).astype(np.float32)

    shadows = train_shadows(again, Recipe(architecture="mlp", width=4, count=4, epochs=1), ensemble=BY_HAND)
    attack(again, target, shadows, "margin")
    given = np.concatenate(seen)
    assert given.dtype == dtype
    np.testing.assert_array_equal(given, images)


class Sentences(nnx.Module):
    """Mean of the embeddings of the tokens, then a linear map."""

    def __init__(self, rngs: nnx.Rngs, classes: int) -> None:
        self.embed = nnx.Embed(1000, 8, rngs=rngs)
        self.head = nnx.Linear(8, classes, rngs=rngs)

    def __call__(self, tokens):
        return self.head(self.embed(tokens).mean(1))


def test_token_ids_reach_a_network_of_your_own_as_integers(tmp_path: Path):
    rng = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int32) % 2
    tokens = rng.integers(0, 500, (60, 7)) + 500 * labels[:, None]
    pool = Pool(tokens.astype(np.int32), labels, np.array([f"t{i}" for i in range(60)]), np.full(60, -1, np.int8))
    recipe = Recipe(architecture=f"{__name__}:Sentences", count=4, epochs=20, batch_size=8, learning_rate=0.5)
    shadows = train_shadows(pool, recipe, ensemble=BY_HAND)
    assert shadows.phi[:, 0][~shadows.mask].mean() > 0.3, "the classes share no token, so that they are learned"
    with pytest.raises(InputError, match=r"mlp does not take sequences of token ids; allowed are target and net"):
        train_shadows(pool, Recipe(architecture="mlp", count=4, epochs=1), ensemble=BY_HAND)
