import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxmia.cli.commands.run import Train
from jaxmia.errors import InputError
from jaxmia.pipeline.shard import Shard, meet
from jaxmia.runs.store import ScoreStore
from tests.challenge import make_challenge
from tests.warm import warm_python

JAXMIA = Path(sys.executable).parent / "jaxmia"


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def explicit(index: int, port: int) -> tuple[list[str], dict[str, str]]:
    return ["--coordinator", f"127.0.0.1:{port}", "--shard", f"{index}/2"], {}


def by_slurm(index: int, port: int) -> tuple[list[str], dict[str, str]]:
    """What srun tells each process; JAX makes the port out of the number of the job."""
    return ["--coordinator", "auto"], {
        "SLURM_JOB_ID": str(port),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": "0",
    }


@pytest.mark.slow
@pytest.mark.parametrize("told", [explicit, by_slurm])
def test_two_processes_of_one_job_train_what_one_would(tmp_path: Path, told):
    config = make_challenge(tmp_path, shadow={"count": 4, "epochs": 5}, ensemble={"width": 1})
    together, alone = tmp_path / "together", tmp_path / "alone"
    port = free_port()
    processes = []
    for index in range(2):
        options, variables = told(index, port)
        command = [warm_python(), JAXMIA, "train", "--config", config, "--out", together, *options]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", **variables}
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
        assert "training 2 of 2 models (1 " in said, said
    Train(alone, config)([])
    found, expected = ScoreStore(together / "shadows").read(), ScoreStore(alone / "shadows").read()
    assert found.model.tolist() == list(range(4))
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_array_equal(found.phi, expected.phi)


@pytest.mark.parametrize("address", ["host", "host:", ":1234", "host:0", "host:99999", "host:port", ""])
def test_what_is_no_address_is_refused(address: str):
    with pytest.raises(InputError, match=rf"--coordinator: '{address}' is neither HOST:PORT nor auto"):
        meet(address, Shard(0, 2))


def test_without_a_scheduler_auto_says_what_to_give():
    """In a process of its own, as it asks for the devices of this one."""
    code = "from jaxmia.pipeline.shard import meet; from jaxmia.pipeline.stages import Shard; meet('auto', Shard())"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "OMPI", "JAX"))}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=False)
    assert "InputError: --coordinator: 'auto': " in done.stderr
    assert "give HOST:PORT of the first process, and --shard I/N to each" in done.stderr
