"""Common parts of the job files of all schedulers: shards that train, then one job that scores."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from jaxmia.cluster.profile import Profile
from jaxmia.config import load_config
from jaxmia.errors import InputError
from jaxmia.files import write_text

REQUEUE_EXIT_CODE = 85
"""Exit code of the trainer once it has saved after a signal to stop; by HTCondor's convention, the job is requeued."""

_templates = Environment(
    loader=PackageLoader("jaxmia.cluster"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_templates.filters["quote"] = shlex.quote


class JobFiles(NamedTuple):
    """Job files, and the command that submits them.

    Attributes:
        files: Absolute paths, in the order of their use.
        submit: Command line that submits the jobs.
    """

    files: tuple[Path, ...]
    submit: str


def job_values(config: Path, out: Path, jobs: int, profile: Profile, nodes: int = 1) -> dict[str, Any]:
    """Values for the templates of every scheduler.

    Args:
        config: Configuration of the run.
        out: Folder of the run.
        jobs: Number of jobs that train.
        profile: Settings of the cluster.
        nodes: Number of shards in a job.

    Raises:
        InputError: The configuration is invalid, there are more shards than models, or a path cannot be used in a job
            file.
    """
    shadow = load_config(config).shadow
    models = shadow.count
    if shadow.rounds > 1:
        raise InputError(
            f"shadow.rounds: {shadow.rounds} is more than job files can do; submit `jaxmia train` with --shard I/N for "
            "each round, then `jaxmia run`"
        )
    if nodes > models:
        raise InputError(f"nodes: {nodes} is more than {models}, the number of models (shadow.count in {config})")
    if not 1 <= jobs <= models // nodes:
        each = f" divided by the number of nodes ({nodes})" if nodes > 1 else ""
        raise InputError(
            f"--jobs {jobs}: must be from 1 to {models // nodes}, the number of models (shadow.count in {config}){each}"
        )
    folder = _checked(out.absolute()) / "cluster"
    return {
        "profile": profile,
        "jobs": jobs,
        "config": _checked(config.absolute()),
        "out": _checked(out.absolute()),
        "folder": folder,
        "logs": folder / "logs",
        "workdir": _checked(Path.cwd()),
        "home": _checked(Path.home()),
        # The script of the virtual environment, not the target of its interpreter's link.
        "command": _checked((profile.command or Path(sys.executable).parent / "jaxmia").absolute()),
        "requeue_exit_code": REQUEUE_EXIT_CODE,
    }


def _checked(path: Path) -> Path:
    """Checks that a path means the same in a shell, a submit file, a DAG and sbatch, which quote differently."""
    strange = re.search(r"[^\w./@+=,~-]", str(path))
    if strange:
        raise InputError(
            f"{path}: job files cannot contain a path with {strange[0]!r}; allowed are letters, digits and ._/@+=,~-"
        )
    return path


def write_templates(scheduler: str, names: tuple[str, ...], values: dict[str, Any]) -> tuple[Path, ...]:
    """Renders the templates of a scheduler to the run's `cluster` folder; returns the paths.

    Args:
        scheduler: Folder of the templates.
        names: Names of the files, in the order of their use.
        values: Values as returned by `job_values`.

    Raises:
        InputError: A file cannot be written.
    """
    files = tuple(values["folder"] / name for name in names)
    for path in files:
        write_text(path, _templates.get_template(f"{scheduler}/{path.name}.jinja").render(values))
        if path.suffix == ".sh":
            path.chmod(0o755)
    # Schedulers hold a job if the folder of its log does not exist.
    values["logs"].mkdir(exist_ok=True)
    return files
