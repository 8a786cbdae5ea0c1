"""Job files from templates: shards that train, then one job that scores."""

import re
import shlex
import sys
from pathlib import Path
from typing import Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from jaxmia.cluster.profile import HTCondorProfile, Profile, SlurmProfile, load_profile
from jaxmia.config import load_config
from jaxmia.errors import InputError
from jaxmia.files import write_text

REQUEUE_EXIT_CODE = 85
"""What the trainer exits with after it was told to stop and has saved; HTCondor's own habit for "run me again"."""

_templates = Environment(
    loader=PackageLoader("jaxmia.cluster"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_templates.filters["quote"] = shlex.quote


class JobFiles(NamedTuple):
    """What was written, and how to hand it to the scheduler.

    Attributes:
        files: Absolute paths, in the order in which they are used.
        submit: The command line that submits all of it.
    """

    files: tuple[Path, ...]
    submit: str


def write_jobs(
    scheduler: Literal["htcondor", "slurm"], config: Path, out: Path, jobs: int, profile: Path | None = None
) -> JobFiles:
    """Writes job files as `write_htcondor` or `write_slurm` do, with a profile from a file or the defaults.

    Raises:
        InputError: As they do, or the profile is bad.
    """
    if scheduler == "htcondor":
        return write_htcondor(
            config, out, jobs, load_profile(profile, HTCondorProfile) if profile else HTCondorProfile()
        )
    return write_slurm(config, out, jobs, load_profile(profile, SlurmProfile) if profile else SlurmProfile())


def write_htcondor(config: Path, out: Path, jobs: int, profile: HTCondorProfile) -> JobFiles:
    """Writes a DAG for HTCondor: `jobs` shards that train, then one job that scores.

    A job that is vacated, or exits with `REQUEUE_EXIT_CODE`, or is killed, runs again and goes on where it was; one
    that exits with 1 or 2 was given something bad and leaves the queue.

    Args:
        config: Configuration of the run.
        out: Folder of the run, on a file system that every machine sees; the job files go to `out/cluster`.
        jobs: Number of shards.
        profile: What the cluster wants to be told.

    Raises:
        InputError: The configuration is bad, there are more jobs than models, or a path cannot stand in a job file.
    """
    names = ("train.sh", "train.sub", "score.sh", "score.sub", "jaxmia.dag")
    files = _write("htcondor", names, _values(config, out, jobs, profile))
    return JobFiles(files, f"condor_submit_dag {files[-1]}")


def write_slurm(config: Path, out: Path, jobs: int, profile: SlurmProfile) -> JobFiles:
    """Writes job scripts for Slurm: an array of `jobs` jobs that train a shard a node, then one job that scores.

    A job that is preempted, or whose time is nearly up, saves and goes back to the queue.

    Args:
        config: Configuration of the run.
        out: Folder of the run, on a file system that every node sees; the job files go to `out/cluster`.
        jobs: Number of jobs that train.
        profile: What the cluster wants to be told.

    Raises:
        InputError: The configuration is bad, there are more shards than models, or a path cannot stand in a job file.
    """
    names = ("train.sbatch", "score.sbatch", "submit.sh")
    files = _write("slurm", names, _values(config, out, jobs, profile, profile.nodes))
    return JobFiles(files, str(files[-1]))


def _values(config: Path, out: Path, jobs: int, profile: Profile, nodes: int = 1) -> dict:
    models = load_config(config).shadow.count
    if nodes > models:
        raise InputError(f"nodes: {nodes} is more than {models}, the number of models (shadow.count in {config})")
    if not 1 <= jobs <= models // nodes:
        each = f" by that of nodes ({nodes})" if nodes > 1 else ""
        raise InputError(
            f"--jobs {jobs}: must be from 1 to {models // nodes}, the number of models (shadow.count in {config}){each}"
        )
    folder = _speakable(out.absolute()) / "cluster"
    return {
        "profile": profile,
        "jobs": jobs,
        "config": _speakable(config.absolute()),
        "out": _speakable(out.absolute()),
        "folder": folder,
        "logs": folder / "logs",
        "workdir": _speakable(Path.cwd()),
        "home": _speakable(Path.home()),
        # The virtual environment's own script, not what its interpreter links to.
        "command": _speakable((profile.command or Path(sys.executable).parent / "jaxmia").absolute()),
        "requeue_exit_code": REQUEUE_EXIT_CODE,
    }


def _speakable(path: Path) -> Path:
    """The path, if it means the same to a shell, a submit file, a DAG and sbatch, which quote in different ways."""
    strange = re.search(r"[^\w./@+=,~-]", str(path))
    if strange:
        raise InputError(f"{path}: job files cannot name a path with {strange[0]!r}; letters, digits and ._/@+=,~- do")
    return path


def _write(scheduler: str, names: tuple[str, ...], values: dict) -> tuple[Path, ...]:
    files = tuple(values["folder"] / name for name in names)
    for path in files:
        write_text(path, _templates.get_template(f"{scheduler}/{path.name}.jinja").render(values))
        if path.suffix == ".sh":
            path.chmod(0o755)
    # A scheduler puts a job on hold whose log has no folder.
    values["logs"].mkdir(exist_ok=True)
    return files
