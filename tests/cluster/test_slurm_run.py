"""A whole run on a real Slurm of one node equals the run of a single process."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxmia.cluster import SlurmProfile, write_slurm
from jaxmia.pool import UNKNOWN, Pool
from tests.cluster.slurm import DAEMONS, find, one_node, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(find(daemon) for daemon in DAEMONS), reason="Slurm or munge is not installed"),
]

JAXMIA = Path(sys.executable).parent / "jaxmia"


def make_challenge(folder: Path) -> Path:
    """Three files of a small challenge; the path of a configuration that attacks it with eight shadows."""
    from bridge.challenge import save_challenge
    from bridge.networks import build
    from bridge.target import save_target
    from jaxmia.models import Network

    rng = np.random.default_rng(0)
    membership = np.concatenate([rng.permutation(np.repeat([0, 1], 20)), np.full(40, UNKNOWN)])
    pool = Pool(
        images=rng.integers(0, 256, (80, 6, 6, 1), dtype=np.uint8),
        labels=rng.integers(0, 3, 80).astype(np.int32),
        ids=np.array([f"sample{i}" for i in range(80)]),
        membership=membership.astype(np.int8),
    )
    save_challenge(pool, folder / "pub.pt", folder / "priv.pt")
    save_target(build(Network("mlp", (6, 6, 1), 3, width=8)), folder / "model.pt")
    config = {
        "challenge": {
            "public": str(folder / "pub.pt"),
            "private": str(folder / "priv.pt"),
            "target": str(folder / "model.pt"),
            "architecture": "mlp",
        },
        # Long enough for an interruption between the two models of a shard.
        "shadow": {"architecture": "mlp", "width": 8, "count": 8, "epochs": 1000, "batch_size": 16},
        "ensemble": {"width": 1},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def test_run_on_slurm_equals_run_of_one_process(tmp_path: Path):
    config = make_challenge(tmp_path)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    profile = SlurmProfile(gpus=0, cpus=1, memory_gb=1, minutes=10)
    with one_node() as slurm:
        training, scoring = re.findall(
            r"job (?:array )?(\d+)", slurm.run(write_slurm(config, shared, 4, profile).submit)
        )
        wait_for((shared / "shadows/00000-00000.npz").exists, "the first model", seconds=200)
        slurm.run("scontrol", "requeue", f"{training}_0")
        wait_for(lambda: not slurm.queue(), "all to end", seconds=300)
        assert slurm.job(f"{training}_0")["Restarts"] == "1"
        state = slurm.job(scoring)["JobState"]
        logs = "\n".join(path.read_text() for path in sorted((shared / "cluster/logs").iterdir()))
    assert state == "COMPLETED", logs

    subprocess.run([JAXMIA, "run", "--config", config, "--out", alone], check=True, capture_output=True)
    for path in (alone / "shadows").iterdir():
        assert np.array_equal(np.load(path)["phi"], np.load(shared / "shadows" / path.name)["phi"]), path.name
    assert (shared / "submission.csv").read_text() == (alone / "submission.csv").read_text()
