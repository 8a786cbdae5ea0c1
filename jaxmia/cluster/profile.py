"""What a cluster wants to be told: resources, containers, queues."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from jaxmia.config import parse_as
from jaxmia.files import read_yaml

Line = Annotated[str, StringConstraints(pattern=r"^[^\r\n]*$")]
Word = Annotated[str, StringConstraints(pattern=r"^[^\s\"'$`;&|<>]+$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Count = Annotated[int, Field(ge=1)]


class Profile(BaseModel):
    """What each job needs, on any scheduler.

    Attributes:
        gpus: GPUs of a job.
        cpus: CPU cores of a job.
        memory_gb: Memory of a job, in GiB.
        command: The jaxmia command where the jobs run; not given, the one that writes the job files.
        launcher: Words before the command, as `apptainer exec --nv image.sif`.
        setup: Shell lines before the command, as `module load cuda`.
        environment: Variables of the command.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus: Annotated[int, Field(ge=0)] = 1
    cpus: Count = 4
    memory_gb: Count = 16
    command: Path | None = None
    launcher: Line = ""
    setup: tuple[Line, ...] = ()
    environment: dict[Name, Line] = {}


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
    attributes: dict[Name, Line] = {}
    should_transfer_files: Literal["YES", "NO", "IF_NEEDED"] = "YES"
    vacate_seconds: Annotated[int, Field(ge=0)] = 300
    retries: Annotated[int, Field(ge=0)] = 20
    commands: dict[Name, Line] = {}

    @model_validator(mode="after")
    def _image_with_universe(self) -> "HTCondorProfile":
        if (self.universe == "vanilla") != (self.image is None):
            raise ValueError(
                f"image: {self.image!r} does not go with universe {self.universe!r}; "
                "docker and container need one, vanilla takes none"
            )
        return self


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


AnyProfile = TypeVar("AnyProfile", bound=Profile)


def load_profile(path: Path, kind: type[AnyProfile]) -> AnyProfile:
    """Reads a profile from YAML.

    Args:
        path: The file.
        kind: `HTCondorProfile` or `SlurmProfile`.

    Raises:
        InputError: The file is missing, is no YAML mapping, is for the other scheduler, or holds an unknown key, a
            wrong type or a value out of bounds; every one of them is named.
    """
    return parse_as(kind, read_yaml(path), str(path))
