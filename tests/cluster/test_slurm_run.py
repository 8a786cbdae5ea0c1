"""A whole run on a real Slurm of one node equals the run of a single process."""

import re
from pathlib import Path

import numpy as np
import pytest

from jaxmia.cli.commands.run import Query, Score, Train
from jaxmia.cluster.slurm import SlurmProfile, write_slurm
from tests.challenge import make_challenge
from tests.cluster.slurm import DAEMONS, find, one_node, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(find(daemon) for daemon in DAEMONS), reason="Slurm or munge is not installed"),
]


def test_run_on_slurm_equals_run_of_one_process(tmp_path: Path):
    # Long enough for an interruption between the two models of a shard.
    config = make_challenge(tmp_path, shadow={"epochs": 1000}, ensemble={"width": 1})
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

    Query(alone, config)([])
    Train(alone, config)([])
    Score(alone)([])
    for path in (alone / "shadows").iterdir():
        assert np.array_equal(np.load(path)["phi"], np.load(shared / "shadows" / path.name)["phi"]), path.name
    assert (shared / "submission.csv").read_text() == (alone / "submission.csv").read_text()
