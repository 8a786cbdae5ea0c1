from pathlib import Path

import jax
import numpy as np
import pytest

from jaxmia.data.augment import views
from jaxmia.data.masks import Masks
from jaxmia.data.pool import Pool
from jaxmia.pipeline.worker import Job
from jaxmia.runs.claims import Claims
from jaxmia.runs.store import ScoreStore
from jaxmia.training.checkpoint import Checkpoints
from jaxmia.training.chunk import ShadowTrainer
from jaxmia.training.ensemble import Ensemble
from tests.training.conftest import make_trainer, plan

ASKED = {"seed": 11}


class Small(Ensemble):
    """A device with memory for `room` models."""

    room = 3

    def run(self, state, hyper, keys, index, first, total):
        if len(keys) > self.room:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.")
        return super().run(state, hyper, keys, index, first, total)


def make_job(folder: Path, pool: Pool, kind: type[Ensemble]) -> Job:
    assert pool.images is not None
    ensemble = kind(make_trainer(architecture="mlp", width=4, epochs=2), plan(), 11, pool.images, pool.labels)
    shadows = ShadowTrainer(
        ensemble, Masks.random(11, len(pool)), views(("identity",)), 16, metadata={"cache_key": ASKED}
    )
    checkpoints = Checkpoints(folder / "checkpoints", ASKED, 600.0)
    return Job(shadows, ScoreStore(folder / "shadows"), checkpoints, Claims(folder / "claims"))


def test_too_little_memory_halves_the_width_and_loses_no_model(tmp_path: Path, pool: Pool, messages: list[str]):
    """Eight together and then four do not fit; two do, and the scores are those of a device with room."""
    job = make_job(tmp_path / "small", pool, Small)
    job.run(range(8), 8)
    assert [line.partition(" models")[0] for line in messages] == [
        "shadows: too little memory for 8",
        "shadows: too little memory for 4",
    ]
    assert [line.rpartition(" ")[2] for line in messages] == ["4", "2"]
    assert sorted(chunk.model.tolist() for _, chunk in job.store.chunks()) == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
    ]
    roomy = make_job(tmp_path / "roomy", pool, Ensemble)
    roomy.run(range(8), 8)
    found, expected = job.store.read(), roomy.store.read()
    np.testing.assert_array_equal(found.model, expected.model)
    np.testing.assert_allclose(found.phi, expected.phi, atol=1e-4)


def test_memory_that_does_not_do_for_one_model_is_an_error(
    tmp_path: Path, pool: Pool, monkeypatch, messages: list[str]
):
    monkeypatch.setattr(Small, "room", 0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        make_job(tmp_path, pool, Small).run(range(2), 2)
    assert len(messages) == 1
