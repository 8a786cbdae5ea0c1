"""A small challenge of real images that ship with scikit-learn, in the course's own format."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from bridge.challenge import save_challenge, save_truth
from bridge.target import save_target
from bridge.trainer import TorchRecipe, train_target
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.models import Network

_SEED = 20
_SIDE = 600
_PREPROCESSING = Preprocessing(mean=(0.3053,), std=(0.3761,))
_RECIPE = TorchRecipe(epochs=40, batch_size=32, learning_rate=0.05, weight_decay=1e-4, seed=_SEED)


def make_demo(out: Path) -> dict[str, Any]:
    """Writes `pub.pt`, `priv.pt`, `model.pt` and `truth.csv`, where they are not there yet.

    Of scikit-learn's digits, 600 become public and 600 private; half of each are members, on which a small
    convolutional network is trained in PyTorch. The private truth goes to `truth.csv` only.

    Args:
        out: Folder of the files.

    Returns:
        A configuration, as `jaxmia.config.parse_config` takes it, whose shadows are trained by a recipe of their own.
    """
    paths = {"public": out / "pub.pt", "private": out / "priv.pt", "target": out / "model.pt"}
    if not all(path.exists() for path in (*paths.values(), out / "truth.csv")):
        _write(out, **paths)
    return {
        "challenge": {
            **{name: str(path) for name, path in paths.items()},
            "architecture": "cnn",
            "mean": list(_PREPROCESSING.mean),
            "std": list(_PREPROCESSING.std),
        },
        "shadow": {
            "architecture": "cnn",
            "count": 64,
            "epochs": 25,
            "batch_size": 64,
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
        },
        "query": {"views": ["identity"]},
    }


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
    module, _ = train_target(images[members], labels[members], network, _RECIPE, _PREPROCESSING)
    save_challenge(Pool(images, labels, ids, membership), public, private)
    save_truth(out / "truth.csv", ids[_SIDE:], members[_SIDE:])
    save_target(module, target)
