import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from orbax.checkpoint.experimental import v1 as orbax

from jaxmia.data.masks import Masks
from jaxmia.data.pool import Pool
from jaxmia.data.views import views
from jaxmia.errors import InputError
from jaxmia.runs.signals import Interrupted
from jaxmia.runs.store import Chunk
from jaxmia.training.checkpoint import Checkpoints, Snapshot
from jaxmia.training.chunk import ShadowTrainer
from jaxmia.training.ensemble import Ensemble
from tests.conftest import Records, telling
from tests.memory import peak_growth
from tests.training.conftest import make_trainer, plan

ASKED = {"seed": 11, "shadow": {"epochs": 4}}
ARRAYS = ("model", "mask", "phi", "accuracy", "accuracy_in")


@pytest.fixture(scope="module", params=["sgd", "adamw"])
def ensemble(request: pytest.FixtureRequest, pool: Pool) -> Ensemble:
    assert pool.images is not None
    trainer = make_trainer(architecture="mlp", width=4, epochs=4, optimizer=request.param, ema=0.9)
    return Ensemble(trainer, plan(), 11, pool.images, pool.labels)


def shadows(ensemble: Ensemble, stop_at: int | None = None) -> ShadowTrainer:
    """Shadows that are told to stop at the n-th time that they ask."""
    queries: Iterator[int] = count(1)

    def stopped() -> int | None:
        return signal.SIGTERM if next(queries) == stop_at else None

    return ShadowTrainer(
        ensemble,
        Masks.random(11, len(ensemble.images)),
        views(("identity", "hflip")),
        query_batch=16,
        stop_signal=stopped,
    )


def checkpoints(folder: Path, every: float = 0, cache_key: dict | None = None):
    return Checkpoints(folder, cache_key or ASKED, every)


def assert_equal(one: Chunk, other: Chunk) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    np.testing.assert_array_equal(one.extra["curve"], other.extra["curve"])


def stop(ensemble: Ensemble, folder: Path, models: list[int], asks: int) -> Interrupted:
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM; models 0-\d are saved at step \d+ of \d+") as caught:
        shadows(ensemble, asks).train_chunk(models, checkpoints(folder))
    return caught.value


def test_a_chunk_interrupted_again_and_again_equals_an_uninterrupted_one(
    ensemble: Ensemble, tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch
):
    """Also in the middle of epochs and in the query, and however many steps a call makes; bit for bit."""
    models = [0, 1, 5]
    whole = shadows(ensemble).train_chunk(models)
    make_every_call_a_step(monkeypatch)
    steps = set()
    for asks in (1, 1, 3, 4, 2):
        steps.add(re.findall(r"step \d+", str(stop(ensemble, tmp_path, models, asks)))[0])
    assert len(steps) == 5, "each goes further than the one before"
    total = whole.metadata["trained_images"] // 3 // 6
    in_query = stop(ensemble, tmp_path, models, total - 11 + 2)
    assert f"step {total} of {total}" in str(in_query)
    assert checkpoints(tmp_path).resumable([5, 1, 0, 2]) == [models]
    records.clear()
    assert_equal(shadows(ensemble).train_chunk(models, checkpoints(tmp_path)), whole)
    assert telling(records, "models 0-5", "checkpoint", f"step {total} of {total}") == ["INFO"]


def test_checkpoints_come_by_the_clock_and_the_last_two_are_kept(
    ensemble: Ensemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make_every_call_a_step(monkeypatch)
    shadows(ensemble).train_chunk([0, 1], checkpoints(tmp_path, every=1e-6))
    steps = sorted(int(path.name) for path in (tmp_path / "00000-00001").iterdir() if path.name.isdecimal())
    total = shadows(ensemble).train_chunk([0, 1]).metadata["trained_images"] // 2 // 6
    assert steps == [total - 1, total]


def make_every_call_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxmia.training.pace._SECONDS_A_CALL", 0.0)


def test_without_an_interval_nothing_is_written(ensemble: Ensemble, tmp_path: Path):
    shadows(ensemble).train_chunk([0, 1], checkpoints(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_models_are_picked_out_of_a_wider_checkpoint(ensemble: Ensemble, tmp_path: Path):
    """As where a machine with less memory goes on, or another job has stored some of the models."""
    whole = shadows(ensemble).train_chunk([0, 1, 2, 3])
    stop(ensemble, tmp_path, [0, 1, 2, 3], 5)
    assert checkpoints(tmp_path).resumable([1, 3, 4]) == [[1, 3]]
    chunk = shadows(ensemble).train_chunk([1, 3], checkpoints(tmp_path))
    assert chunk.metadata["train_seconds"] > 0
    np.testing.assert_allclose(chunk.phi, whole.phi[[1, 3]], atol=1e-4)


def test_the_furthest_checkpoint_of_a_model_counts(tmp_path: Path):
    for models, step in (([0, 1, 2], 4), ([1, 2], 9), ([5], 2)):
        checkpoints(tmp_path).writer(models).save(moment(step, len(models)), wait=True)
    assert checkpoints(tmp_path).resumable(range(8)) == [[1, 2], [0], [5]]
    found = checkpoints(tmp_path).restore([2])
    assert found is not None
    assert found.step == 9
    np.testing.assert_array_equal(found.arrays["a"], moment(9, 2).arrays["a"][1:])


def moment(step: int, models: int) -> Snapshot:
    values = np.arange(models * 3, dtype=np.float32).reshape(models, 3) + 100 * step
    return Snapshot(step, 1.5, {"a": values, "b/c": np.full(models, step, np.int32)})


def test_a_moment_comes_back_as_it_was(tmp_path: Path):
    assert checkpoints(tmp_path).restore([0, 1]) is None
    before = moment(7, 2)
    before.arrays["a"][0, 1] = np.nan
    assert checkpoints(tmp_path).writer([0, 1]).save(before, wait=True)
    after = checkpoints(tmp_path).restore([0, 1])
    assert after is not None
    assert (after.step, after.seconds) == (7, 1.5)
    for name, array in before.arrays.items():
        assert after.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(after.arrays[name], array)


def damage(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:-20])


# When a checkpoint cannot be loaded, Orbax leaves a callback to an event loop that it has closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(tmp_path: Path, records: Records):
    for step in (3, 6):
        checkpoints(tmp_path).writer([0, 1]).save(moment(step, 2), wait=True)
    damage(tmp_path / "00000-00001" / "6")
    found = checkpoints(tmp_path).restore([0, 1])
    assert found is not None
    assert found.step == 3
    assert telling(records, "00000-00001/6", "6.damaged") == ["WARNING"]
    assert len(records) == 1
    assert "\n" not in records[0].getMessage()
    assert (tmp_path / "00000-00001" / "6.damaged").is_dir()
    damage(tmp_path / "00000-00001" / "3")
    assert checkpoints(tmp_path).restore([0, 1]) is None
    assert checkpoints(tmp_path).writer([0, 1]).save(moment(3, 2), wait=True), "what is set aside is not in the way"


def test_a_checkpoint_with_a_wrong_bit_is_not_taken(tmp_path: Path, records: Records):
    """Written so that Orbax takes it for whole."""
    checkpoints(tmp_path).writer([0]).save(moment(3, 1), wait=True)
    path = str(tmp_path / "00000-00000/3")
    tree = orbax.load(path)
    name, array = next(iter(tree["arrays"].items()))
    content = bytearray(np.asarray(array).tobytes())
    content[0] ^= 1
    tree["arrays"][name] = np.frombuffer(content, array.dtype).reshape(array.shape)
    orbax.save(path, tree, overwrite=True)
    assert checkpoints(tmp_path).restore([0]) is None
    assert telling(records, "checksum") == ["WARNING"]


def test_a_half_written_checkpoint_is_none(tmp_path: Path):
    checkpoints(tmp_path).writer([0]).save(moment(3, 1), wait=True)
    (tmp_path / "00000-00000" / "9.orbax-checkpoint-tmp-123").mkdir()
    found = checkpoints(tmp_path).restore([0])
    assert found is not None
    assert found.step == 3


def test_a_checkpoint_of_another_configuration_is_refused_by_name(tmp_path: Path):
    checkpoints(tmp_path).writer([0]).save(moment(3, 1), wait=True)
    other = {"seed": 12, "shadow": {"epochs": 5}}
    match = (
        r"00000-00000: was created with another configuration: seed is 11 there and 12 here, "
        rf"shadow\.epochs is 4 there and 5 here; use another --out or remove {re.escape(str(tmp_path))}$"
    )
    with pytest.raises(InputError, match=match):
        checkpoints(tmp_path, cache_key=other).resumable([0])


@pytest.mark.parametrize(
    "about",
    [
        *("", "{", "null", "[]", "[" * 10**5, '{"models": [0]}'),
        *(
            f'{{"cache_key": {{}}, "models": {models}}}'
            for models in ("null", "[]", "[1e400]", '["0"]', "[-1]", "[[0]]")
        ),
        '{"cache_key": 3, "models": [0]}',
    ],
)
def test_a_checkpoint_that_does_not_say_whose_it_is_is_named(tmp_path: Path, about: str):
    (tmp_path / "00000-00000").mkdir()
    (tmp_path / "00000-00000" / "about.json").write_text(about)
    with pytest.raises(InputError, match=r"about\.json: cannot be read \(.+\); remove .*00000-00000"):
        checkpoints(tmp_path).restore([0])


def test_arrays_of_another_type_or_shape_are_refused_by_name(ensemble: Ensemble, tmp_path: Path):
    stop(ensemble, tmp_path, [0, 1], 3)
    found = checkpoints(tmp_path).restore([0, 1])
    assert found is not None
    name = next(name for name in found.arrays if name.startswith("state/params"))
    arrays = {**found.arrays, name: found.arrays[name].astype(np.float16), "curve": found.arrays["curve"][:, :1]}
    checkpoints(tmp_path / "other").writer([0, 1]).save(Snapshot(3, 1.0, arrays), wait=True)
    match = (
        rf"models 0-1: does not match this program: curve is float32 \[2, 1, 4\] there .*{name} is float16 .* float32"
    )
    with pytest.raises(InputError, match=match):
        shadows(ensemble).train_chunk([0, 1], checkpoints(tmp_path / "other"))


def test_checkpoints_go_when_all_of_their_models_are_stored(tmp_path: Path):
    for models in ([0, 1], [2, 3]):
        checkpoints(tmp_path).writer(models).save(moment(3, 2), wait=True)
    checkpoints(tmp_path).forget([0, 1, 3, 4])
    assert [path.name for path in tmp_path.iterdir()] == ["00002-00003"]


def test_a_folder_whose_first_checkpoint_was_never_written_goes_with_its_models(tmp_path: Path):
    checkpoints(tmp_path).writer([2, 3]).save(moment(3, 2), wait=True)
    (tmp_path / "00002-00003" / "3").rename(tmp_path / "00002-00003" / "3.orbax-checkpoint-tmp")
    assert checkpoints(tmp_path).resumable([2, 3]) == []
    checkpoints(tmp_path).forget([2])
    assert [path.name for path in tmp_path.iterdir()] == ["00002-00003"]
    checkpoints(tmp_path).forget([2, 3])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_which_a_failed_save_still_writes_is_removed_once_it_has_ended(tmp_path: Path, monkeypatch):
    folder, remove, late = tmp_path / "00002-00002", shutil.rmtree, iter([True])
    folder.mkdir()
    (folder / "about.json").write_text(json.dumps({"models": [2], "cache_key": ASKED}))

    def overtaken(path: Path, ignore_errors: bool = False) -> None:
        remove(path, ignore_errors=ignore_errors)
        if next(late, False):
            (path / "4.orbax-checkpoint-tmp").mkdir(parents=True)

    monkeypatch.setattr(shutil, "rmtree", overtaken)
    checkpoints(tmp_path).forget([2])
    assert list(tmp_path.iterdir()) == []


def test_folders_of_nobody_are_removed_unless_another_process_may_be_creating_them(tmp_path: Path):
    checkpoints(tmp_path).writer([0, 1]).save(moment(3, 2), wait=True)
    for name in ("00002-00003", "00004-00005"):
        (tmp_path / name / "4.orbax-checkpoint-tmp").mkdir(parents=True)
    checkpoints(tmp_path).remove_abandoned([(4, 5)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000-00001", "00004-00005"]
    checkpoints(tmp_path).remove_abandoned([])
    assert checkpoints(tmp_path).resumable([0, 1]) == [[0, 1]]
    assert [path.name for path in tmp_path.iterdir()] == ["00000-00001"]


def test_a_folder_of_other_models_with_the_same_ends_is_replaced(tmp_path: Path):
    checkpoints(tmp_path).writer([0, 1, 4]).save(moment(9, 3), wait=True)
    checkpoints(tmp_path).writer([0, 2, 4]).save(moment(3, 3), wait=True)
    assert checkpoints(tmp_path).resumable(range(5)) == [[0, 2, 4]]
    assert json.loads((tmp_path / "00000-00004" / "about.json").read_text())["models"] == [0, 2, 4]


def test_a_checkpoint_that_cannot_be_saved_does_not_end_the_training(
    ensemble: Ensemble, tmp_path: Path, records: Records
):
    (tmp_path / "file").write_text("")
    chunk = shadows(ensemble).train_chunk([0, 1], checkpoints(tmp_path / "file", every=1e-6))
    assert chunk.model.tolist() == [0, 1]
    assert set(telling(records, "checkpoint", "Not a directory")) == {"WARNING"}
    with pytest.raises(Interrupted, match="models 0-1 are not saved; the same command resumes from the last"):
        shadows(ensemble, 3).train_chunk([0, 1], checkpoints(tmp_path / "file"))


def test_without_checkpoints_an_interruption_says_that_nothing_is_saved(ensemble: Ensemble):
    with pytest.raises(Interrupted, match="models 0-1 are not saved"):
        shadows(ensemble, 3).train_chunk([0, 1])


def test_a_checkpoint_that_would_unpack_to_far_more_than_it_holds_is_set_aside(tmp_path: Path, records: Records):
    writer = checkpoints(tmp_path).writer([0])
    writer.save(moment(5, models=1), wait=True)
    writer.save(Snapshot(6, 1.0, {"weight": np.zeros((1, 2**27), np.float32)}), wait=True)
    held = sum(path.stat().st_size for path in (tmp_path / "00000-00000" / "6").rglob("*") if path.is_file())
    assert held < 2**20
    found: list[Snapshot | None] = []
    growth = peak_growth(lambda: found.append(checkpoints(tmp_path).restore([0])))
    assert found[0] is not None and found[0].step == 5
    assert growth < 2**28
    assert telling(records, f"{2**29 + 12} bytes", "6.damaged") == ["WARNING"]


def test_what_says_whose_a_checkpoint_is_must_be_a_short_regular_file(tmp_path: Path):
    about = tmp_path / "00000-00000" / "about.json"
    about.parent.mkdir()
    os.mkfifo(about)
    with pytest.raises(InputError, match=r"about.json: cannot be read \(is not a regular file\)"):
        checkpoints(tmp_path).resumable([0])
    about.unlink()
    about.write_text(" " * 2**21)
    with pytest.raises(InputError, match=r"about.json: cannot be read \(.*has 2097152 bytes, allowed are 1048576\)"):
        checkpoints(tmp_path).resumable([0])
