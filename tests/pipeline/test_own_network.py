"""Shadows of a Flax network of the user's own, by every way that names it."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from jaxmia import EnsembleConfig, train_shadows
from jaxmia.cli.main import main
from jaxmia.config import load_config
from jaxmia.pipeline.stages import Pipeline
from jaxmia.runs.store import ScoreStore
from tests.challenge import make_challenge

MODULE = """
from flax import nnx

class Dropped(nnx.Module):
    def __init__(self, rngs, shape, classes, width=4):
        self.hidden = nnx.Linear(shape[0] * shape[1] * shape[2], width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, images):
        hidden = self.norm(self.hidden(images.reshape(len(images), -1)))
        return self.out(self.dropout(nnx.tanh(hidden)))
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration whose shadows are of a network that lies in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_network_of_mine.py").write_text(MODULE)
    shadow = {"architecture": "a_network_of_mine:Dropped", "count": 4, "epochs": 2}
    match = {"models": 2, "trials": 1, "epochs": [2], "learning_rate": [0.1]}
    return make_challenge(tmp_path / "challenge", shadow=shadow, match=match)


@pytest.mark.slow
def test_shards_of_job_files_and_python_train_the_same_shadows(config: Path):
    """The search for a recipe keeps the network; its configuration is what the jobs train by."""
    main(["match", "--config", str(config), "--out", "match"])
    matched = Path("match/matched.yaml")
    assert load_config(matched).shadow.architecture == "a_network_of_mine:Dropped"

    main(["cluster", "slurm", "--config", str(matched), "--out", "run", "--jobs", "2"])
    script = Path("run/cluster/train.sbatch").absolute()
    for shard in ("0", "1"):
        job = os.environ | {"SLURM_ARRAY_TASK_ID": shard}
        subprocess.run(["bash", script], cwd="/", env=job, check=True, capture_output=True)
    shards = ScoreStore(Path("run/shadows")).read()

    pipeline = Pipeline(load_config(matched), Path("other"))
    shadows = train_shadows(
        pipeline.pool,
        pipeline.config.shadow,
        pipeline.target.preprocessing,
        pipeline.target.classes,
        symmetries=("identity", "hflip"),
        ensemble=EnsembleConfig(width=2, conv="unrolled", devices=1),
    )
    np.testing.assert_array_equal(shards.mask, shadows.mask)
    np.testing.assert_allclose(shards.phi, shadows.phi, atol=1e-5)
    assert np.ptp(shadows.phi, 0).min() > 0


def test_a_network_that_does_not_fit_is_refused_before_anything_is_written(config: Path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", str(config), "--out", "run", "--shadow.architecture", "a_network_of_mine:Droped"])
    assert stop.value.code == 1
    line = "jaxmia: shadow.architecture: cannot import 'a_network_of_mine:Droped': AttributeError: "
    assert line in capsys.readouterr().err
    assert not Path("run/shadows").exists()
