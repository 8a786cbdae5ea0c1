"""What every scheduler's job files have in common: shards that train, then one job that scores."""

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


def job_values(config: Path, out: Path, jobs: int, profile: Profile, nodes: int = 1) -> dict[str, Any]:
    """What the templates of every scheduler are filled with.

    Args:
        config: Configuration of the run.
        out: Folder of the run.
        jobs: Jobs that train.
        profile: What the cluster wants to be told.
        nodes: Shards of a job.

    Raises:
        InputError: The configuration is bad, there are more shards than models, or a path cannot stand in a job file.
    """
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


def write_templates(scheduler: str, names: tuple[str, ...], values: dict[str, Any]) -> tuple[Path, ...]:
    """Writes the templates of a scheduler, filled, to the run's `cluster` folder; returns their paths.

    Args:
        scheduler: Folder of its templates.
        names: Of the files, in the order in which they are used.
        values: As `job_values` returns them.

    Raises:
        InputError: A file cannot be written.
    """
    files = tuple(values["folder"] / name for name in names)
    for path in files:
        write_text(path, _templates.get_template(f"{scheduler}/{path.name}.jinja").render(values))
        if path.suffix == ".sh":
            path.chmod(0o755)
    # A scheduler puts a job on hold whose log has no folder.
    values["logs"].mkdir(exist_ok=True)
    return files
