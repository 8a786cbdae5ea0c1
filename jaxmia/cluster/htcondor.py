"""Job files for HTCondor."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from jaxmia.cluster.jobs import JobFiles, job_values, write_templates
from jaxmia.cluster.profile import Line, Name, Profile, Word


class HTCondorProfile(Profile):
    """What HTCondor wants to be told beyond that.

    Attributes:
        universe: Where jobs run: on the machine, or in a container.
        image: The container's image; needed by `docker` and `container`.
        requirements: ClassAd expression that a machine must fulfil.
        attributes: Attributes of the job, without their `+`, each a ClassAd expression.
        should_transfer_files: Whether HTCondor copies the job's script to the machine.
        vacate_seconds: Time to save, from the signal to the end.
        retries: How often a job that was interrupted or killed runs again.
        commands: Further submit commands, as they stand.
    """

    scheduler: Literal["htcondor"] = "htcondor"
    universe: Literal["vanilla", "docker", "container"] = "vanilla"
    image: Word | None = None
    requirements: Line | None = None
    attributes: dict[Name, Line] = Field(default_factory=dict)
    should_transfer_files: Literal["YES", "NO", "IF_NEEDED"] = "YES"
    vacate_seconds: Annotated[int, Field(ge=0)] = 300
    retries: Annotated[int, Field(ge=0)] = 20
    commands: dict[Name, Line] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _image_with_universe(self) -> "HTCondorProfile":
        if (self.universe == "vanilla") != (self.image is None):
            raise ValueError(
                f"image: {self.image!r} does not go with universe {self.universe!r}; "
                "docker and container need one, vanilla takes none"
            )
        return self


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
    files = write_templates("htcondor", names, job_values(config, out, jobs, profile))
    return JobFiles(files, f"condor_submit_dag {files[-1]}")
