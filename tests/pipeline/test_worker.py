from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxmia.data.masks import Masks
from jaxmia.data.pool import Pool
from jaxmia.data.views import views
from jaxmia.errors import InputError
from jaxmia.pipeline.worker import Job
from jaxmia.runs.claims import Claims, Lease
from jaxmia.runs.store import ScoreStore
from jaxmia.training.checkpoint import Checkpoints
from jaxmia.training.chunk import ShadowTrainer
from jaxmia.training.ensemble import Ensemble
from jaxmia.training.weights import Weights
from tests.conftest import Records, telling
from tests.training.conftest import make_trainer, plan

ASKED = {"seed": 11}


class Small(Ensemble):
    """A device with memory for `room` models."""

    room = 3

    def run(self, state, hyper, keys, index, first, total):
        if len(keys) > self.room:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.")
        return super().run(state, hyper, keys, index, first, total)


class Diverging(Ensemble):
    """Models whose weights are no numbers from the start."""

    bad: frozenset[int] = frozenset()

    def init(self, models):
        state = super().init(models)
        lost = np.array([model in self.bad for model in models])

        def spoil(array):
            return jax.numpy.where(lost.reshape(-1, *[1] * (array.ndim - 1)), np.nan, array)

        return state | {"params": jax.tree.map(spoil, state["params"])}


def make_job(folder: Path, pool: Pool, kind: type[Ensemble]) -> Job:
    assert pool.images is not None
    ensemble = kind(make_trainer(architecture="mlp", width=4, epochs=2), plan(), 11, pool.images, pool.labels)
    shadows = ShadowTrainer(
        ensemble, Masks.random(11, len(pool)), views(("identity",)), 16, metadata={"cache_key": ASKED}
    )
    checkpoints = Checkpoints(folder / "checkpoints", ASKED, 600.0)
    return Job(shadows, ScoreStore(folder / "shadows"), checkpoints, Claims(folder / "claims"))


def test_too_little_memory_halves_the_width_and_loses_no_model(tmp_path: Path, pool: Pool, records: Records):
    """Eight together and then four do not fit; two do, and the scores are those of a device with room."""
    job = make_job(tmp_path / "small", pool, Small)
    job.run(range(8), 8)
    halved = [
        telling([record], "out of memory", f"{width}", f"{width // 2}")
        for record, width in zip(records, (8, 4), strict=True)
    ]
    assert halved == [["INFO"], ["INFO"]]
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


def test_memory_that_does_not_do_for_one_model_is_an_error(tmp_path: Path, pool: Pool, monkeypatch, records: Records):
    monkeypatch.setattr(Small, "room", 0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        make_job(tmp_path, pool, Small).run(range(2), 2)
    assert len(records) == 1


def test_models_that_another_job_has_just_stored_are_not_trained_again(
    tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
):
    """It stores them and gives its claim up while this one looks for both."""
    first, second = (make_job(tmp_path / name, pool, Ensemble) for name in ("first", "second"))
    first.run(range(2), 2)
    looks: list[Claims] = []

    def others(claims: Claims) -> list[Lease]:
        looks.append(claims)
        if len(looks) == 2:
            second.store.write(first.store.read())
        return []

    monkeypatch.setattr(Claims, "others", others)
    monkeypatch.setattr(ShadowTrainer, "train_chunk", lambda *arguments: pytest.fail("trained again"))
    second.run(range(2), 2)
    assert second.store.models() == {0, 1}


def diverging_job(folder: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> Job:
    monkeypatch.setattr(Diverging, "bad", frozenset(bad))
    return make_job(folder, pool, Diverging)


def test_models_that_diverge_are_left_out_and_their_mates_kept(
    tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch, records: Records
):
    job = diverging_job(tmp_path / "some", pool, monkeypatch, {0, 3, 4, 5})
    weights = Weights(tmp_path / "weights")
    replace(job, shadows=replace(job.shadows, keep=weights.write)).run(range(8), 4)
    assert (job.store.models(), job.store.diverged()) == ({1, 2, 6, 7}, {0, 3, 4, 5})
    healthy = make_job(tmp_path / "all", pool, Ensemble)
    healthy.run(range(8), 4)
    found, expected = job.store.read(), healthy.store.read()
    assert found.diverged == (0, 3, 4, 5)
    for name in ("mask", "phi", "accuracy", "accuracy_in"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name)[[1, 2, 6, 7]])
    np.testing.assert_array_equal(found.extra["curve"], expected.extra["curve"][[1, 2, 6, 7]])
    for entry in job.store.index():
        assert weights.read(entry.models, entry.metadata["weights"])
    assert telling(records[:1], "0, 3 diverged", "0.05", "shadow.learning_rate") == ["WARNING"]
    job.run(range(8), 4)
    assert len(records) == 2, "they are not trained again"
    assert list((tmp_path / "some" / "checkpoints").glob("*")) == []


def test_where_all_models_diverge_the_training_ends_and_is_not_repeated(
    tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
):
    job = diverging_job(tmp_path, pool, monkeypatch, set(range(8)))
    with pytest.raises(InputError, match=r"shadows: all shadow models diverged; lower shadow\.learning_rate"):
        job.run(range(8), 4)
    assert job.store.diverged() == {0, 1, 2, 3}
    with pytest.raises(InputError, match="all shadow models diverged"):
        job.store.read()
    few = diverging_job(tmp_path / "few", pool, monkeypatch, {0, 1})
    few.run(range(2), 2)
    few.run(range(2), 2)
    with pytest.raises(InputError, match="all shadow models diverged"):
        few.store.read()
    assert [chunk.diverged for _, chunk in few.store.chunks()] == [(0, 1)]
