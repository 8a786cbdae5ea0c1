"""Small challenges for tests that go the whole way."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from bridge.challenge import save_challenge
from bridge.networks import build
from bridge.target import save_target
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.models import Network

_CONFIG: dict[str, dict[str, Any]] = {
    "challenge": {"architecture": "mlp"},
    "shadow": {"architecture": "mlp", "width": 8, "known": 0.0, "count": 8, "epochs": 20, "batch_size": 16},
    "ensemble": {"width": 2, "devices": 1, "conv": "unrolled"},
    "query": {"views": ["identity", "hflip"]},
    "attack": {"name": "lira-online-global"},
}


def make_pool(seed: int = 0, count: int = 80, side: int = 6) -> Pool:
    """Images of three classes, told apart by their brightness; the first half is public."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    images = np.clip(rng.normal(60 + 60 * labels[:, None, None, None], 50, (count, side, side, 1)), 0, 255)
    known = rng.permutation(np.repeat([0, 1], count // 4))
    membership = np.concatenate([known, np.full(count - len(known), UNKNOWN)]).astype(np.int8)
    return Pool(images.astype(np.uint8), labels, np.array([f"s{seed}-{i}" for i in range(count)]), membership)


def make_challenge(folder: Path, pool: Pool | None = None, seed: int = 0, **sections: dict[str, Any]) -> Path:
    """Writes the three files of a challenge; the path of a configuration that attacks it, `sections` over the default.

    The target is not trained.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pool = pool or make_pool()
    assert pool.images is not None
    save_challenge(pool, folder / "pub.pt", folder / "priv.pt")
    height, width, channels = pool.images.shape[1:]
    save_target(build(Network("mlp", (height, width, channels), 3, width=8)), folder / "model.pt")
    files = {"public": folder / "pub.pt", "private": folder / "priv.pt", "target": folder / "model.pt"}
    content: dict[str, Any] = {
        name: {**_CONFIG.get(name, {}), **sections.get(name, {})} for name in {**_CONFIG, **sections}
    }
    content["seed"] = seed
    content["challenge"] |= {name: str(path) for name, path in files.items()}
    path = folder / "config.yaml"
    path.write_text(json.dumps(content))  # JSON is YAML
    return path
