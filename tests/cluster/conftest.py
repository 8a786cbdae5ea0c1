from pathlib import Path

import pytest

from jaxmia.cluster.htcondor import HTCondorProfile
from jaxmia.cluster.profile import load_profile
from jaxmia.cluster.slurm import SlurmProfile

CONFIGS = Path(__file__).parents[2] / "configs" / "cluster"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("shadow:\n  count: 8\n")
    return path


@pytest.fixture
def course() -> HTCondorProfile:
    return load_profile(CONFIGS / "tml-htcondor.yaml", HTCondorProfile)


@pytest.fixture
def generic() -> SlurmProfile:
    return load_profile(CONFIGS / "slurm.yaml", SlurmProfile)
