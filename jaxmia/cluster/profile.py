"""What a cluster wants to be told: resources, containers, queues."""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

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


AnyProfile = TypeVar("AnyProfile", bound=Profile)


def load_profile(path: Path, kind: type[AnyProfile]) -> AnyProfile:
    """Reads a profile from YAML.

    Args:
        path: The file.
        kind: The scheduler's profile.

    Raises:
        InputError: The file is missing, is no YAML mapping, is for another scheduler, or holds an unknown key, a
            wrong type or a value out of bounds; every one of them is named.
    """
    return parse_as(kind, read_yaml(path), str(path))
