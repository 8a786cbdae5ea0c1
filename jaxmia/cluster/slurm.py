"""Job files for Slurm."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from jaxmia.cluster.jobs import JobFiles, job_values, write_templates
from jaxmia.cluster.profile import Count, Profile, Word


class SlurmProfile(Profile):
    """What Slurm wants to be told beyond that.

    Attributes:
        partition: Where jobs queue; not given, the cluster's default.
        account: Who pays.
        qos: Quality of service.
        constraint: Features that a node must have.
        gpu_type: Type of GPU, as `a100`.
        nodes: Nodes of a training job, each of which trains a shard; what a job needs is then what each node gives.
        minutes: Time limit of a job.
        warning_seconds: How long before that limit the trainer is told to save and the job goes back to the queue.
        options: Further options of sbatch, as they stand, as `--exclude=node7`.
    """

    scheduler: Literal["slurm"] = "slurm"
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Annotated[str, StringConstraints(pattern=r"^[^\r\n\"]+$")] | None = None
    gpu_type: Word | None = None
    nodes: Count = 1
    minutes: Count = 240
    warning_seconds: Annotated[int, Field(ge=0, le=65535)] = 300
    options: tuple[Annotated[str, StringConstraints(pattern=r"^--[a-z][^\r\n]*$")], ...] = ()

    @model_validator(mode="after")
    def _warned_in_time(self) -> "SlurmProfile":
        if self.warning_seconds >= 60 * self.minutes:
            raise ValueError(
                f"warning_seconds: {self.warning_seconds} is not less than the time limit, {60 * self.minutes} s"
            )
        return self


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
    files = write_templates("slurm", names, job_values(config, out, jobs, profile, profile.nodes))
    return JobFiles(files, str(files[-1]))
