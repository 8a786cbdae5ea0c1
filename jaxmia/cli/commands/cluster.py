"""The command that writes job files for a cluster."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxmia.cli.overrides import configure_run
from jaxmia.cluster import SCHEDULERS, write_jobs


@dataclass
class Cluster:
    """Writes job files for HTCondor or Slurm: N training shards, then scoring.

    If fields of the configuration are set, it is written to DIR/cluster/config.yaml with them, for the jobs to read.

    Example: jaxmia cluster slurm --config own.yaml --out runs/own --jobs 8
    """

    scheduler: Annotated[Literal[*SCHEDULERS], tyro.conf.Positional]  # pyright: ignore[reportInvalidTypeForm]
    """Scheduler of the cluster."""
    config: Path
    """Configuration file of the run (YAML)."""
    out: Path
    """Folder of the run, on a file system that every machine sees; the job files go to DIR/cluster."""
    jobs: int
    """Number of training jobs; each trains one shard, or on Slurm one shard per node (nodes in the profile)."""
    profile: Path | None = None
    """Settings of this cluster (YAML); `jaxmia init mine.yaml --template slurm` writes a file to start from."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Writes the job files."""
        from jaxmia.cli.display import output
        from jaxmia.config import save_config

        config = configure_run(self.config, overrides)  # the jobs find the same files: they run in this directory
        path = self.config
        if overrides:
            path = self.out / "cluster" / "config.yaml"
            save_config(config, path)
            output(str(path.absolute()))
        files = write_jobs(self.scheduler, path, self.out, self.jobs, self.profile)
        output("\n".join(str(path) for path in files.files))
        output(f"submit with: {files.submit}")
