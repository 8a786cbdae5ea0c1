"""Job files for Slurm."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from jaxmia.cluster.jobs import JobFiles, job_values, write_templates
from jaxmia.cluster.profile import Count, Profile, Word


class SlurmProfile(Profile):
    """Settings for Slurm, in addition to the common ones.

    Attributes:
        partition: Partition in which jobs queue; by default that of the cluster.
        account: Account that is charged.
        qos: Quality of service.
        constraint: Features that a node must have.
        gpu_type: Type of GPU, such as `a100`.
        nodes: Number of nodes of a training job, each of which trains a shard with the resources of a job.
        minutes: Time limit of a job.
        warning_seconds: Seconds before that limit at which the trainer is signalled to save and the job is requeued.
        options: Further options of sbatch, copied verbatim, such as `--exclude=node7`.
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
    """Writes job scripts for Slurm: an array of `jobs` jobs that train a shard per node, then one job that scores.

    A job that is preempted, or close to its time limit, saves and is requeued.

    Args:
        config: Configuration of the run.
        out: Folder of the run, on a file system that every node sees; the job files go to `out/cluster`.
        jobs: Number of jobs that train.
        profile: Settings of the cluster.

    Raises:
        InputError: The configuration is invalid, there are more shards than models, or a path cannot be used in a job
            file.
    """
    names = ("train.sbatch", "score.sbatch", "submit.sh")
    files = write_templates("slurm", names, job_values(config, out, jobs, profile, profile.nodes))
    return JobFiles(files, str(files[-1]))
