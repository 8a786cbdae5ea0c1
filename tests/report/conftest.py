import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxmia.config import AttackConfig
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.pipeline.scoring import score
from jaxmia.runs.store import Chunk, ScoreStore

MODELS, SAMPLES, PUBLIC = 12, 400, 200


def make_run(
    out: Path, strength: float, *, name: str = "lira-online-global", recorded: bool = False, fpr: float = 0.05
) -> np.ndarray:
    """A scored run of invented margins in which members stand out by `strength` spreads; returns who is a member."""
    rng = np.random.default_rng(11)
    mask = rng.random((MODELS + 1, SAMPLES)) < 0.5
    location, spread = rng.normal(3, 2, SAMPLES), rng.gamma(4, 0.3, SAMPLES) + 0.2
    phi = (location + spread * (rng.normal(size=(MODELS + 1, 1, SAMPLES)) + strength * mask[:, None])).astype(
        np.float32
    )
    membership = np.where(np.arange(SAMPLES) < PUBLIC, mask[-1], UNKNOWN).astype(np.int8)
    ids = np.array([f"s<{i}>&" for i in range(SAMPLES)])
    Pool(None, rng.integers(0, 3, SAMPLES), ids, membership).save(out / "pool.npz")
    np.savez(out / "target.npz", phi=phi[-1], **({"correct": phi[-1, 0] > 0} if recorded else {}))
    for part in np.array_split(np.arange(MODELS), 2):
        share = np.linspace(0.8, 0.9, len(part)) if recorded else np.full(len(part), np.nan)
        curve = np.stack([np.tile([1.0, 2.0, 3.0], (len(part), 1)), *[rng.random((len(part), 3))] * 3], axis=-1)
        made = {
            "cache_key": {"shadow": {"epochs": 3}},
            "device": "slide rule",
            "kernels": "avx2 fma, GCC 12.2.0",
            "train_seconds": 10.0,
            "trained_together": 8,
        }
        ScoreStore(out / "shadows").write(
            Chunk(
                part,
                mask[part],
                phi[part],
                share,
                share,
                {"curve": curve} if recorded else {},
                made if recorded else {},
            )
        )
    score(out, AttackConfig(name=name, fpr=fpr))
    return mask[-1]


def write_truth(path: Path, out: Path, members: np.ndarray) -> Path:
    """The truth of the private samples as CSV."""
    ids = Pool.load(out / "pool.npz").ids
    rows = [f"{id_},{int(member)}" for id_, member in zip(ids[PUBLIC:], members[PUBLIC:], strict=True)]
    path.write_text("\n".join(["id,membership", *rows]) + "\n")
    return path


def change_metrics(out: Path, **changes: object) -> None:
    path = out / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """The run that `run` copies; it is read only."""
    out = tmp_path_factory.mktemp("scored") / "run"
    return out, make_run(out, 1.5)


@pytest.fixture
def run(scored: tuple[Path, np.ndarray], tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A scored run without configuration, images or records, and who is a member."""
    out, members = scored
    return shutil.copytree(out, tmp_path / "run"), members
