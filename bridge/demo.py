"""Small demo challenges from scikit-learn's data: images of digits, and a table of measurements."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits

from bridge.challenge import save_challenge, save_truth
from bridge.table import save_table
from bridge.target import save_target
from bridge.trainer import train_target
from jaxmia.config import Recipe, template
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.errors import InputError
from jaxmia.files import read_yaml, write_text
from jaxmia.training.trainer import network_of

DemoKind = Literal["images", "table"]

_MARK = ".jaxmia-demo"
_SEED = 20
_SIDE = 600


def make_demo(out: Path, kind: DemoKind = "images") -> dict[str, Any]:
    """Writes `pub`, `priv`, `model.pt` and `truth.csv` unless they all exist already.

    `images` are 1,200 of scikit-learn's digits in the course's file format, with a small convolutional network as the
    target; `table` is its breast cancer data, 569 rows of 30 measurements in `.csv` files, with a multilayer
    perceptron as the target. One half of the samples is public, the other private; half of each are members, on which
    the target is trained in PyTorch. The private memberships are written to `truth.csv` only.

    Args:
        out: Directory of the files.
        kind: Kind of the samples.

    Raises:
        InputError: One of the files exists and was not written by the demo, or cannot be written.

    Returns:
        A configuration for `jaxmia.config.parse_config`, whose shadow models use another recipe than the target.
    """
    demo = _DEMOS[kind]
    names = {"public": f"pub.{demo.suffix}", "private": f"priv.{demo.suffix}", "target": "model.pt"}
    paths = {field: out / name for field, name in names.items()}
    _refuse_others(out, kind, [*paths.values(), out / "truth.csv"])
    settings = read_yaml(template(demo.template))
    if not all(path.exists() for path in (*paths.values(), out / "truth.csv")):
        write_text(out / _MARK, _mark(kind))
        _write(out, paths, demo)
    return {**settings, "challenge": {**settings["challenge"], **{name: str(path) for name, path in paths.items()}}}


@dataclass(frozen=True)
class _Demo:
    """A demonstration.

    Attributes:
        template: Name of the configuration that attacks it.
        suffix: Suffix of the files of samples.
        samples: Draws the pool, the memberships, bool `[sample]`, and the names of the columns.
        recipe: Recipe of the target.
    """

    template: str
    suffix: str
    samples: Callable[[], tuple[Pool, np.ndarray, list[str]]]
    recipe: Recipe


def _mark(kind: DemoKind) -> str:
    return f"The challenge in this folder was made by `jaxmia demo --kind {kind}`, which may make it again.\n"


def _refuse_others(out: Path, kind: DemoKind, files: list[Path]) -> None:
    there = [path for path in files if path.exists()]
    mark = out / _MARK
    if there and not mark.exists():
        raise InputError(f"{there[0]}: was not written by `jaxmia demo`, which would overwrite it; use another --out")
    if there and "--kind" in (made := mark.read_text(encoding="utf-8", errors="replace")) and made != _mark(kind):
        raise InputError(f"{there[0]}: belongs to a demo of another --kind; use another --out")


def _write(out: Path, paths: dict[str, Path], demo: _Demo) -> None:
    pool, members, columns = demo.samples()
    samples = pool.images_to("train on")
    network = network_of(demo.recipe, samples.shape[1:], int(pool.labels.max()) + 1)
    seen = read_yaml(template(demo.template))["challenge"]
    preprocessing = Preprocessing(mean=tuple(seen["mean"]), std=tuple(seen["std"]))
    module, _ = train_target(samples[members], pool.labels[members], network, demo.recipe, preprocessing, seed=_SEED)
    if columns:
        save_table(pool.take(pool.public), paths["public"], columns)
        save_table(pool.take(~pool.public), paths["private"], columns)
    else:
        save_challenge(pool, paths["public"], paths["private"])
    save_truth(out / "truth.csv", pool.ids[~pool.public], members[~pool.public])
    save_target(module, paths["target"])


def _digits() -> tuple[Pool, np.ndarray, list[str]]:
    pixels, classes = load_digits(return_X_y=True)
    generator = np.random.default_rng(_SEED)
    chosen = generator.permutation(len(pixels))[: 2 * _SIDE]
    images = np.round(pixels[chosen].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    members = np.concatenate([generator.permutation(np.arange(_SIDE) % 2 == 0) for _ in range(2)])
    ids = np.array([f"digit-{number}" for number in generator.permutation(10 * len(chosen))[: len(chosen)]])
    membership = np.where(np.arange(2 * _SIDE) < _SIDE, members, UNKNOWN).astype(np.int8)
    return Pool(images, classes[chosen].astype(np.int32), ids, membership), members, []


def _tumours() -> tuple[Pool, np.ndarray, list[str]]:
    data: Any = load_breast_cancer()
    generator = np.random.default_rng(_SEED)
    chosen = generator.permutation(len(data.data))
    public = np.arange(len(chosen)) < len(chosen) // 2
    halves = (public.sum(), (~public).sum())
    members = np.concatenate([generator.permutation(np.arange(count) % 2 == 0) for count in halves])
    ids = np.array([f"row-{number}" for number in generator.permutation(10 * len(chosen))[: len(chosen)]])
    membership = np.where(public, members, UNKNOWN).astype(np.int8)
    pool = Pool(data.data[chosen].astype(np.float32), data.target[chosen].astype(np.int32), ids, membership)
    return pool, members, [name.replace(" ", "_") for name in data.feature_names.tolist()]


_DEMOS: dict[DemoKind, _Demo] = {
    "images": _Demo(
        "demo",
        "pt",
        _digits,
        Recipe(
            architecture="cnn",
            epochs=40,
            batch_size=32,
            learning_rate=0.05,
            weight_decay=1e-4,
            decay_norm_and_bias=True,
        ),
    ),
    "table": _Demo(
        "demo-table",
        "csv",
        _tumours,
        Recipe(architecture="mlp", hidden=(128, 64), epochs=120, batch_size=16, learning_rate=0.05, weight_decay=0.0),
    ),
}
