"""Job files for HTCondor."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from jaxmia.cluster.jobs import JobFiles, job_values, write_templates
from jaxmia.cluster.profile import Line, Name, Profile, Word


class HTCondorProfile(Profile):
    """Settings for HTCondor, in addition to the common ones.

    Attributes:
        universe: Where jobs run: on the machine, or in a container.
        image: Image of the container; required by `docker` and `container`.
        requirements: ClassAd expression that a machine must satisfy.
        attributes: Attributes of the job, without their `+`, each a ClassAd expression.
        should_transfer_files: Whether HTCondor copies the job's script to the machine.
        vacate_seconds: Seconds between the signal to save and the end of the job.
        retries: Largest number of times that an interrupted or killed job runs again.
        commands: Further submit commands, copied verbatim.
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
                f"image: {self.image!r} does not fit universe {self.universe!r}; "
                "docker and container need one, vanilla takes none"
            )
        return self


def write_htcondor(config: Path, out: Path, jobs: int, profile: HTCondorProfile) -> JobFiles:
    """Writes a DAG for HTCondor: `jobs` shards that train, then one job that scores.

    A job that is vacated, exits with `REQUEUE_EXIT_CODE` or is killed runs again and resumes; a job that exits with 1
    or 2 has bad input and leaves the queue.

    Args:
        config: Configuration of the run.
        out: Folder of the run, on a file system that every machine sees; the job files go to `out/cluster`.
        jobs: Number of shards.
        profile: Settings of the cluster.

    Raises:
        InputError: The configuration is invalid, there are more jobs than models, or a path cannot be used in a job
            file.
    """
    names = ("train.sh", "train.sub", "score.sh", "score.sub", "jaxmia.dag")
    files = write_templates("htcondor", names, job_values(config, out, jobs, profile))
    return JobFiles(files, f"condor_submit_dag {files[-1]}")
