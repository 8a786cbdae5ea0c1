import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxmia.errors import InputError
from jaxmia.files import load_npz
from jaxmia.runs.store import Chunk, ScoreStore, describe_difference
from tests.conftest import Records, make_chunk, telling


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore(tmp_path / "shadows")


def fields(chunk: Chunk) -> dict[str, np.ndarray]:
    names = ("model", "mask", "phi", "accuracy", "accuracy_in")
    return {**{name: getattr(chunk, name) for name in names}, **chunk.extra}


def assert_equal(one: Chunk, other: Chunk) -> None:
    assert fields(one).keys() == fields(other).keys()
    for name, array in fields(one).items():
        assert array.dtype == fields(other)[name].dtype
        np.testing.assert_array_equal(array, fields(other)[name], err_msg=name)


def test_a_chunk_comes_back_as_it_was(store: ScoreStore):
    chunk = make_chunk([4, 5, 6])
    path = store.write(chunk)
    assert path.name == "00004-00006.npz"
    assert_equal(store.read(), chunk)
    assert store.read().metadata == chunk.metadata
    assert store.models() == {4, 5, 6}


def test_chunks_are_joined_in_the_order_of_models_whoever_trained_them(store: ScoreStore):
    """Shards hold every second model, and their files come in another order than their models."""
    chunks = [make_chunk([1, 3, 5]), make_chunk([7, 0, 2]), make_chunk([4, 6])]
    for chunk in chunks:
        store.write(chunk)
    joined = store.read()
    assert joined.model.tolist() == list(range(8)) == sorted(store.models())
    for chunk in chunks:
        for name, array in fields(chunk).items():
            np.testing.assert_array_equal(fields(joined)[name][chunk.model], array, err_msg=name)


def test_files_made_elsewhere_need_only_model_mask_and_phi(store: ScoreStore):
    chunk = make_chunk([0, 1])
    store.folder.mkdir()
    np.savez(store.folder / "a.npz", model=chunk.model, mask=chunk.mask, phi=chunk.phi.astype(np.float64))
    store.write(make_chunk([2], metadata={}))
    read = store.read()
    np.testing.assert_array_equal(read.phi[:2], chunk.phi)
    assert np.isnan(read.accuracy[:2]).all()
    assert np.isfinite(read.accuracy[2])
    assert read.extra == {}, "what only some files hold cannot be joined"


def test_an_empty_store_says_what_to_do(store: ScoreStore):
    assert store.models() == set()
    with pytest.raises(InputError, match=r"shadows: contains no trained shadow models .*`jaxmia train`"):
        store.read()


def save(store: ScoreStore, name: str, **changes) -> None:
    chunk = make_chunk([0, 1, 2])
    arrays = {"model": chunk.model, "mask": chunk.mask, "phi": chunk.phi, **changes}
    store.folder.mkdir(exist_ok=True)
    np.savez(store.folder / name, **arrays)


NAN = np.where(np.arange(180).reshape(3, 2, 30) == 100, np.nan, 0).astype(np.float32)
HUGE = np.where(np.isnan(NAN), -1e200, 0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": np.array([[0], [1], [2]])}, "model is int64 .* expected integers"),
        ({"model": np.array([0.0, 1.0, 2.0])}, "model is float64"),
        ({"model": np.array([0, 1])}, "mask is bool .* as many models"),
        ({"model": np.array([0, 1, -2])}, "model: -2 is not a model number"),
        ({"model": np.array([0, 1, 1])}, "model: 1 occurs more than once"),
        ({"mask": np.zeros((3, 30), np.int8)}, "mask is int8"),
        ({"mask": np.zeros((3, 29), bool)}, "phi is float32"),
        ({"phi": np.zeros((3, 30), np.float32)}, "phi is float32"),
        ({"phi": np.zeros((3, 0, 30), np.float32)}, "phi is float32"),
        ({"phi": np.zeros((3, 2, 30), np.int32)}, "phi is int32"),
        ({"phi": np.array([["a"]])}, "phi is <U1"),
        ({"phi": NAN}, "phi of model 1 at sample 10 is not finite"),
        ({"phi": HUGE}, r"phi of model 1 at sample 10 is -1e\+200, expected a logit margin of at most 1e\+30 in size"),
        ({"phi": -HUGE}, r"phi of model 1 at sample 10 is 1e\+200"),
        ({"phi": np.full((3, 2, 30), 2e30, np.float32)}, r"phi of model 0 at sample 0 is 2e\+30"),
        ({"accuracy": np.zeros(2, np.float32)}, "accuracy is float32 .* expected .*model"),
        ({"accuracy_in": np.float32(1)}, "accuracy_in is float32"),
        ({"accuracy": np.array(["a", "b", "c"])}, "accuracy is <U1"),
        ({"accuracy": np.array([0.5, np.nan, np.inf])}, "accuracy: inf is not between 0 and 1"),
        ({"accuracy_in": np.array([0.5, -0.1, 1.0])}, "accuracy_in: -0.1 is not between 0 and 1"),
        ({"metadata": np.array("{")}, "metadata is not(?: a)? JSON"),
        ({"metadata": np.array("[1]")}, "metadata is not(?: a)? JSON"),
        ({"metadata": np.array('{"cache_key": 3}')}, "metadata is not(?: a)? JSON"),
    ],
)
def test_a_damaged_chunk_is_named(store: ScoreStore, changes: dict, complaint: str, records: Records):
    save(store, "bad.npz", **changes)
    with pytest.raises(InputError, match=rf"shadows/bad\.npz: {complaint}") as caught:
        store.read()
    assert "\n" not in str(caught.value)
    assert list(store.chunks()) == []
    assert telling(records, f"{caught.value}", "bad.npz.damaged") == ["WARNING"]
    assert [path.name for path in store.folder.iterdir()] == ["bad.npz.damaged"]


def test_the_margins_of_a_model_that_diverged_are_read(store: ScoreStore):
    phi = make_chunk([0, 1, 2]).phi * np.float32(1e28)
    save(store, "wild.npz", phi=phi)
    np.testing.assert_array_equal(store.read().phi, phi)


def test_a_file_that_is_no_chunk_is_named(store: ScoreStore):
    store.write(make_chunk([0, 1, 2]))
    (store.folder / "notes.npz").write_text("hello")
    with pytest.raises(InputError, match=r"shadows/notes\.npz: cannot be read as \.npz"):
        store.read()
    np.savez(store.folder / "notes.npz", phi=np.zeros(3))
    with pytest.raises(InputError, match=r"shadows/notes\.npz: lacks model, mask; it holds phi"):
        store.read()


def test_chunks_of_another_shape_or_recipe_are_named(store: ScoreStore):
    store.write(make_chunk([0, 1]))
    store.write(make_chunk([2, 3], samples=31))
    with pytest.raises(InputError, match=r"00002-00003\.npz: phi is \[2, 31\] \[view, sample\], but 00000-00001"):
        store.read()
    made = {"cache_key": {"seed": 0, "shadow": {"epochs": 4}}}
    store.write(make_chunk([2, 3], metadata=made))
    with pytest.raises(
        InputError, match=r"00002-00003\.npz: does not belong with 00000-00001\.npz: shadow\.epochs is 3 .* 4 here"
    ):
        store.read()


def test_chunks_made_on_another_machine_belong_together(store: ScoreStore):
    chunk = make_chunk([0])
    store.write(chunk)
    store.write(make_chunk([1], metadata={**chunk.metadata, "host": "there"}))
    assert store.read().model.tolist() == [0, 1]


def test_a_model_that_comes_twice_is_named(store: ScoreStore):
    store.write(make_chunk([0, 1, 2]))
    store.write(make_chunk([2, 3]))
    with pytest.raises(InputError, match=r"shadows: model 2 is in more than one file"):
        store.read()


def test_a_model_made_twice_by_mistake_counts_once(store: ScoreStore):
    first, second = make_chunk([0, 1, 2]), make_chunk([2, 3])
    second.mask[0] = first.mask[2]
    for chunk in (first, second):
        store.write(chunk)
    read = store.read()
    assert read.model.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(read.phi, np.concatenate([first.phi, second.phi[1:]]))
    np.testing.assert_array_equal(read.mask, np.concatenate([first.mask, second.mask[1:]]))


@pytest.mark.parametrize("length", [0, 1, 100, -200, -1])
def test_a_truncated_chunk_is_set_aside_and_the_others_kept(store: ScoreStore, length: int, records: Records):
    kept = make_chunk([2, 3])
    store.write(kept)
    path = store.write(make_chunk([0, 1]))
    path.write_bytes(path.read_bytes()[:length])
    assert store.models() == {2, 3}
    ((good, chunk),) = store.chunks()
    assert good.name == "00002-00003.npz"
    assert_equal(chunk, kept)
    assert telling(records, f"{path}", "cannot be read") == ["WARNING"]
    assert len(records) == 1
    assert path.with_name("00000-00001.npz.damaged").exists()
    assert_equal(store.read(), kept)


def test_a_wrong_bit_is_damage(store: ScoreStore, records: Records):
    chunk = make_chunk([0, 1])
    path = store.write(chunk)
    content = bytearray(path.read_bytes())
    content[content.index(chunk.phi.tobytes()) + 40] ^= 1
    path.write_bytes(content)
    assert list(store.chunks()) == []
    assert telling(records, "00000-00001.npz.damaged") == ["WARNING"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENFILE])
def test_a_chunk_that_cannot_be_read_for_now_is_not_damaged(store: ScoreStore, monkeypatch, number: int):
    path = store.write(make_chunk([0, 1]))

    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("zipfile.ZipFile", refuse)
    with pytest.raises(InputError, match=rf"00000-00001\.npz: cannot be read as \.npz: .*{os.strerror(number)}"):
        list(store.chunks())
    assert path.exists()


def test_the_index_names_models_and_how_they_were_made(store: ScoreStore):
    chunk = make_chunk([4, 5])
    path = store.write(chunk)
    (store.folder / "notes.npz").write_text("hello")
    assert store.index() == [(path, (4, 5), chunk.metadata, ())]


def test_a_failed_write_leaves_the_chunks_that_were_there(store: ScoreStore, monkeypatch):
    first = make_chunk([0, 1])
    store.write(first)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    for models in ([0, 1], [2, 3]):
        with pytest.raises(InputError, match=r"shadows/0000.*\.npz: cannot be written: No space left on device"):
            store.write(make_chunk(models, seed=9))
    assert [path.name for path in store.folder.iterdir()] == ["00000-00001.npz"]
    assert_equal(store.read(), first)


def test_a_temporary_file_of_a_killed_process_is_no_chunk(store: ScoreStore):
    store.write(make_chunk([0]))
    (store.folder / ".00001-00001.npz.abc.tmp").write_bytes(b"half")
    assert store.models() == {0}


def test_how_a_chunk_was_made_is_stored_as_json(store: ScoreStore):
    chunk = make_chunk([0])
    assert json.loads(str(load_npz(store.write(chunk))["metadata"])) == chunk.metadata


def test_differences_are_named_by_their_path():
    first = {"cache_key": {"seed": 0, "shadow": {"epochs": 3, "augment": {"flip": True}}}, "host": "a"}
    second = {"cache_key": {"seed": 0, "shadow": {"epochs": 3, "augment": {"flip": False}, "ema": 0.9}}, "host": "b"}
    assert describe_difference(first, first | {"host": "c"}) == ""
    assert describe_difference(first, second) == (
        "shadow.augment.flip is True there and False here, shadow.ema is None there and 0.9 here"
    )
    digests = {"pool": "12ab", "told": "34cd"}
    assert describe_difference({"cache_key": digests}, {"cache_key": {"pool": "56ef", "told": "78ab"}}) == (
        "the samples differ, the memberships that are known differ"
    )
    assert describe_difference({"cache_key": digests}, {"cache_key": {"pool": "12ab"}}) == (
        "told is '34cd' there and None here"
    )


@pytest.mark.parametrize(
    "curve",
    [
        np.full((3, 2, 4), "loss"),
        np.full((3, 2, 4), 1j),
        np.full((3, 2, 4), "2020-01-01", "M8[D]"),
        np.zeros((3, 2, 4), [("loss", "f4")]),
        np.full((3, 2, 4), 1e308),
    ],
)
def test_of_further_arrays_only_figures_are_read(store: ScoreStore, curve: np.ndarray):
    save(store, "one.npz", curve=curve, seconds=np.array([1.0, np.nan, 3.0]))
    assert set(store.read().extra) == {"seconds"}
