"""The job files on a real Slurm of one node; skipped where Slurm is not installed."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxmia.cluster.slurm import SlurmProfile, write_slurm
from tests.cluster.slurm import DAEMONS, Slurm, find, one_node, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(find(daemon) for daemon in DAEMONS), reason="Slurm or munge is not installed"),
]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with one_node() as cluster:
        yield cluster


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A command in jaxmia's place: its training needs a file `go`, and saves where it was when told to stop."""
    path = tmp_path / "stand-in"
    path.write_text(
        "#!/bin/bash\n"
        f'say() {{ echo "$*" >> {tmp_path}/events; }}\n'
        "shard=${7%/*}\n"
        'if [ "$1" != train ]; then say "$1"; exit; fi\n'
        'trap \'say "stop $shard"; exit "$JAXMIA_REQUEUE_EXIT_CODE"\' TERM USR1\n'
        'say "start $shard"\n'
        f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done\n"
        'say "done $shard"\n'
    )
    path.chmod(0o755)
    return path


def events(folder: Path) -> list[str]:
    """What the stand-in has said, line by line."""
    path = folder / "events"
    return path.read_text().splitlines() if path.exists() else []


def submit(slurm: Slurm, config: Path, out: Path, profile: SlurmProfile) -> tuple[str, str]:
    """Submits as a user does; the numbers of the training and of the scoring."""
    printed = slurm.run(*write_slurm(config, out, 4, profile).submit.split())
    numbers = re.search(r"job array (\d+) of 4, scoring: job (\d+)", printed)
    assert numbers, printed
    return numbers[1], numbers[2]


def test_interrupted_shards_go_on_and_scoring_waits_for_all(slurm: Slurm, tmp_path: Path, config: Path, stand_in: Path):
    profile = SlurmProfile(gpus=0, cpus=1, memory_gb=1, minutes=10, command=stand_in)
    training, scoring = submit(slurm, config, tmp_path / "run", profile)
    wait_for(lambda: len(events(tmp_path)) == 4, "four shards to start")
    assert sorted(events(tmp_path)) == [f"start {shard}" for shard in range(4)]

    slurm.run("scontrol", "requeue", f"{training}_1")  # what preemption does
    slurm.run("scancel", "--batch", f"--signal={signal.SIGUSR1.name}", f"{training}_2")  # what a time nearly up does
    wait_for(lambda: len(events(tmp_path)) == 8, "two shards to stop and start again")
    assert sorted(events(tmp_path)[4:6]) == ["stop 1", "stop 2"]
    assert sorted(events(tmp_path)[6:]) == ["start 1", "start 2"]
    assert slurm.job(scoring)["JobState"] == "PENDING"

    (tmp_path / "go").touch()
    wait_for(lambda: not slurm.queue(), "all to end")
    assert sorted(events(tmp_path)[8:12]) == [f"done {shard}" for shard in range(4)]
    assert events(tmp_path)[12:] == ["query", "score", "report"]
    restarts = [slurm.job(f"{training}_{shard}")["Restarts"] for shard in range(4)]
    assert restarts == ["0", "1", "1", "0"]
    assert slurm.job(scoring)["JobState"] == "COMPLETED"


def test_each_node_of_a_job_trains_a_shard(slurm: Slurm, tmp_path: Path, config: Path, stand_in: Path):
    """On the one node that there is, with two tasks in place of two nodes."""
    profile = SlurmProfile(
        nodes=2, gpus=0, cpus=1, memory_gb=1, minutes=10, command=stand_in, launcher="env LAUNCHED='a b'"
    )
    train = write_slurm(config, tmp_path / "run", 2, profile).files[0]
    training = slurm.run("sbatch", "--parsable", "--nodes=1", "--ntasks-per-node=2", train).strip()
    wait_for(lambda: len(events(tmp_path)) == 4, "four shards to start")
    assert sorted(events(tmp_path)) == [f"start {shard}" for shard in range(4)]

    slurm.run("scontrol", "requeue", f"{training}_0")
    slurm.run("scancel", "--batch", f"--signal={signal.SIGUSR1.name}", f"{training}_1")
    wait_for(lambda: len(events(tmp_path)) == 12, "four shards to stop and start again")
    assert sorted(events(tmp_path)[4:]) == [f"{what} {shard}" for what in ("start", "stop") for shard in range(4)]

    (tmp_path / "go").touch()
    wait_for(lambda: not slurm.queue(), "all to end")
    assert sorted(events(tmp_path)[12:]) == [f"done {shard}" for shard in range(4)]
    assert [slurm.job(f"{training}_{job}")["JobState"] for job in range(2)] == ["COMPLETED"] * 2


def test_urgent_job_takes_a_node_and_gives_it_back(slurm: Slurm, tmp_path: Path, config: Path, stand_in: Path):
    profile = SlurmProfile(gpus=0, cpus=2, memory_gb=1, minutes=10, command=stand_in)
    training, _ = submit(slurm, config, tmp_path / "run", profile)
    wait_for(lambda: len(events(tmp_path)) == 4, "four shards to start")
    slurm.run("sbatch", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap=true")
    wait_for(lambda: len(events(tmp_path)) == 6, "one shard to stop and start again")
    stop, start = (event.split() for event in events(tmp_path)[4:])
    assert (stop[0], start[0], stop[1]) == ("stop", "start", start[1])
    (tmp_path / "go").touch()
    wait_for(lambda: not slurm.queue(), "all to end")
    assert slurm.job(f"{training}_{start[1]}")["JobState"] == "COMPLETED"


def test_failed_shard_cancels_the_scoring(slurm: Slurm, tmp_path: Path, config: Path):
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/bash\nexit 1\n")
    failing.chmod(0o755)
    profile = SlurmProfile(gpus=0, cpus=1, memory_gb=1, minutes=10, command=failing)
    training, scoring = submit(slurm, config, tmp_path / "run", profile)
    wait_for(lambda: not slurm.queue(), "all to end")
    assert slurm.job(f"{training}_0")["JobState"] == "FAILED"
    assert slurm.job(scoring)["JobState"] == "CANCELLED"
