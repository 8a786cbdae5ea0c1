"""Job files for the schedulers that clusters already have: HTCondor and Slurm."""

from jaxmia.cluster.jobs import JobFiles, write_htcondor, write_jobs, write_slurm
from jaxmia.cluster.profile import HTCondorProfile, SlurmProfile, load_profile

__all__ = [
    "HTCondorProfile",
    "JobFiles",
    "SlurmProfile",
    "load_profile",
    "write_htcondor",
    "write_jobs",
    "write_slurm",
]
