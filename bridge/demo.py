"""A small demo challenge made of real images that ship with scikit-learn, in the course's file format."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from bridge.challenge import save_challenge, save_truth
from bridge.target import save_target
from bridge.trainer import train_target
from jaxmia.config import Recipe, template
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.errors import InputError
from jaxmia.files import read_yaml, write_text
from jaxmia.models import Network

_MARK = ".jaxmia-demo"
_SEED = 20
_SIDE = 600
_PREPROCESSING = Preprocessing(mean=(0.3053,), std=(0.3761,))
_RECIPE = Recipe(
    architecture="cnn", epochs=40, batch_size=32, learning_rate=0.05, weight_decay=1e-4, decay_norm_and_bias=True
)


def make_demo(out: Path) -> dict[str, Any]:
    """Writes `pub.pt`, `priv.pt`, `model.pt` and `truth.csv` unless they all exist already.

    600 of scikit-learn's digits become public samples and 600 private ones. Half of each are members, on which a small
    convolutional network is trained in PyTorch. The private membership is written only to `truth.csv`.

    Args:
        out: Directory of the files.

    Raises:
        InputError: One of the files is there and is not the demonstration's own, or cannot be written.

    Returns:
        A configuration for `jaxmia.config.parse_config`, whose shadow models use a different recipe than the target.
    """
    paths = {"public": out / "pub.pt", "private": out / "priv.pt", "target": out / "model.pt"}
    there = [path for path in (*paths.values(), out / "truth.csv") if path.exists()]
    if there and not (out / _MARK).exists():
        raise InputError(f"{there[0]}: was not made by `jaxmia demo`, which would overwrite it; name another --out")
    if len(there) < len(paths) + 1:
        write_text(out / _MARK, "The challenge in this folder was made by `jaxmia demo`, which may make it again.\n")
        _write(out, **paths)
    settings = read_yaml(template("demo"))
    return {**settings, "challenge": {**settings["challenge"], **{name: str(path) for name, path in paths.items()}}}


def _write(out: Path, public: Path, private: Path, target: Path) -> None:
    pixels, classes = load_digits(return_X_y=True)
    generator = np.random.default_rng(_SEED)
    chosen = generator.permutation(len(pixels))[: 2 * _SIDE]
    images = np.round(pixels[chosen].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    labels = classes[chosen].astype(np.int32)
    members = np.concatenate([generator.permutation(np.arange(_SIDE) % 2 == 0) for _ in range(2)])
    ids = np.array([f"digit-{number}" for number in generator.permutation(10 * len(chosen))[: len(chosen)]])
    membership = np.where(np.arange(2 * _SIDE) < _SIDE, members, UNKNOWN).astype(np.int8)
    network = Network("cnn", (8, 8, 1), 10)
    module, _ = train_target(images[members], labels[members], network, _RECIPE, _PREPROCESSING, seed=_SEED)
    save_challenge(Pool(images, labels, ids, membership), public, private)
    save_truth(out / "truth.csv", ids[_SIDE:], members[_SIDE:])
    save_target(module, target)
