"""A Slurm cluster of one node, for the time of a test: munged, slurmctld and slurmd on free ports of this machine."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
_FOLDERS = os.pathsep.join(("/usr/sbin", "/sbin", "/usr/local/sbin", os.environ.get("PATH", "")))

# cred_expire is how long a requeued job waits, two minutes by default and five seconds at least. The scheduler looks
# for work every second. One core counts as eight, so that the whole array runs at once.
_CONFIG = """
ClusterName=jaxmia
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
MpiDefault=none
KillWait=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=8192 State=UNKNOWN
PartitionName=spare Nodes={host} Default=YES MaxTime=60 State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=60 State=UP PriorityTier=10
"""


def find(daemon: str) -> str | None:
    """Where a daemon is; daemons are often not on the path of users."""
    return shutil.which(daemon, path=_FOLDERS)


class Slurm:
    """A running cluster.

    Attributes:
        environment: What makes sbatch and the others speak to it.
    """

    def __init__(self, folder: Path):
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str | Path) -> str:
        """The output of a command, as sbatch, squeue, scontrol."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr.strip()}")
        return done.stdout

    def job(self, name: str) -> dict[str, str]:
        """Fields of a job, or of a task of an array as `12_3`."""
        text = self.run("scontrol", "--oneliner", "show", "job", name)
        pairs = (word.partition("=") for word in text.split())
        return {key: value for key, _, value in pairs}

    def queue(self) -> list[str]:
        """One line for each job and task that waits or runs: its name and its state."""
        return self.run("squeue", "--array", "--noheader", "--format=%i %T").splitlines()


@contextmanager
def one_node() -> Iterator[Slurm]:
    """A cluster, ready for jobs; its daemons and jobs end with the block."""
    host = socket.gethostname().partition(".")[0]
    with ExitStack() as stack:
        # A short path: that of a socket has at most 107 characters.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True)))
        folder.chmod(0o711)  # munged wants its socket to be in reach of every user
        for name in ("state", "spool"):
            (folder / name).mkdir()
        controller_port, node_port = _free_ports(2)
        (folder / "slurm.conf").write_text(
            _CONFIG.format(
                host=host, folder=folder, user=getpass.getuser(), controller_port=controller_port, node_port=node_port
            )
        )
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(64))
        key.chmod(0o600)
        slurm = Slurm(folder)
        munge = {name: f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")}
        stack.enter_context(
            _daemon(folder, slurm, "munged", "--foreground", *munge.values(), f"--socket={folder}/munge.socket")
        )
        try:
            wait_for(lambda: (folder / "munge.socket").exists(), "munged to listen", seconds=60)
            stack.enter_context(_daemon(folder, slurm, "slurmctld", "-D"))
            stack.enter_context(_daemon(folder, slurm, "slurmd", "-D", "-N", host))
            wait_for(lambda: "idle" in _nodes(slurm), "the node to be idle")
        except TimeoutError as error:
            for log in sorted(folder.glob("*.out")):
                error.add_note(f"{log.name}: {log.read_text()[-2000:]}")
            raise
        stack.callback(_cancel_all, slurm)
        yield slurm


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Looks ten times a second.

    Raises:
        TimeoutError: It has not come true.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.1)


@contextmanager
def _daemon(folder: Path, slurm: Slurm, name: str, *options: str) -> Iterator[None]:
    path = find(name)
    assert path is not None
    with (folder / f"{name}.out").open("wb") as log:
        process = subprocess.Popen([path, *options], env=slurm.environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _nodes(slurm: Slurm) -> str:
    try:
        return slurm.run("sinfo", "--noheader", "--format=%T")
    except RuntimeError:
        return ""


def _cancel_all(slurm: Slurm) -> None:
    slurm.run("scancel", f"--user={getpass.getuser()}")
    wait_for(lambda: not slurm.queue(), "the jobs to end")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
