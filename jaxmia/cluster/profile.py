"""Settings of a cluster: resources, containers, queues."""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from jaxmia.files import read_yaml
from jaxmia.validation import parse_as

Line = Annotated[str, StringConstraints(pattern=r"^[^\r\n]*$")]
Word = Annotated[str, StringConstraints(pattern=r"^[^\s\"'$`;&|<>]+$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Count = Annotated[int, Field(ge=1)]


class Profile(BaseModel):
    """Settings of a job that are common to all schedulers.

    Attributes:
        gpus: Number of GPUs of a job.
        cpus: Number of CPU cores of a job.
        memory_gb: Memory of a job, in GiB.
        command: jaxmia command on the machines of the cluster; by default the one that writes the job files.
        launcher: Prefix of the command, such as `apptainer exec --nv image.sif`.
        setup: Shell lines to run before the command, such as `module load cuda`.
        environment: Environment variables of the command.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus: Annotated[int, Field(ge=0)] = 1
    cpus: Count = 4
    memory_gb: Count = 16
    command: Path | None = None
    launcher: Line = ""
    setup: tuple[Line, ...] = ()
    environment: dict[Name, Line] = {}


AnyProfile = TypeVar("AnyProfile", bound=Profile)


def load_profile(path: Path, kind: type[AnyProfile]) -> AnyProfile:
    """Reads a profile from YAML.

    Args:
        path: Path of the file.
        kind: Profile class of the scheduler.

    Raises:
        InputError: The file is missing, is not a YAML mapping, is for another scheduler, or contains an unknown key, a
            wrong type or a value out of bounds; the message lists every one.
    """
    return parse_as(kind, read_yaml(path), str(path))
