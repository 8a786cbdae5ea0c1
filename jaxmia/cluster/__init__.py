"""Job files for the schedulers of clusters."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxmia.cluster.jobs import JobFiles

SCHEDULERS = {
    "htcondor": ("jaxmia.cluster.htcondor", "HTCondorProfile", "write_htcondor"),
    "slurm": ("jaxmia.cluster.slurm", "SlurmProfile", "write_slurm"),
}
"""Module of each scheduler, imported on first use, with the names of its profile and its writer."""


def write_jobs(scheduler: str, config: Path, out: Path, jobs: int, profile: Path | None = None) -> "JobFiles":
    """Writes the job files of a scheduler, with a profile from a file or its defaults.

    Args:
        scheduler: A name of `SCHEDULERS`.
        config: Configuration of the run.
        out: Folder of the run, on a file system that every machine sees; the job files go to `out/cluster`.
        jobs: Number of jobs that train.
        profile: File with the settings of the cluster.

    Raises:
        InputError: The configuration or the profile is invalid, there are more shards than models, or a path cannot be
            used in a job file.
    """
    from jaxmia.cluster.profile import load_profile

    module, kind, write = SCHEDULERS[scheduler]
    found = importlib.import_module(module)
    chosen = getattr(found, kind)
    return getattr(found, write)(config, out, jobs, load_profile(profile, chosen) if profile else chosen())
