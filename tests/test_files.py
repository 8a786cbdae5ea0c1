import errno
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxmia.errors import DamagedFile, InputError, UnreadableFile, UnwritableFile
from jaxmia.files import atomic_write, load_npz, read_json, save_npz, write_text


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_is_written_with_its_folders(tmp_path: Path):
    path = tmp_path / "a" / "b" / "text.txt"
    write_text(path, "größer\n")
    assert contents(path.parent) == {"text.txt": "größer\n".encode()}


def test_a_file_has_the_rights_of_any_other_new_file(tmp_path: Path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "ours", "")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_the_name_appears_when_the_block_ends(tmp_path: Path):
    path = tmp_path / "late.bin"
    with atomic_write(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
    assert contents(tmp_path) == {"late.bin": b"half"}


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_an_interrupted_block_leaves_the_old_file_alone(tmp_path: Path, error: BaseException):
    path = tmp_path / "kept.txt"
    write_text(path, "old")
    with pytest.raises(type(error)), atomic_write(path) as file:
        file.write(b"new")
        raise error
    assert contents(tmp_path) == {"kept.txt": b"old"}


def fail(number: int):
    def failing(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return failing


@pytest.mark.parametrize(
    ("place", "number", "reason"),
    [
        ("os.fsync", errno.ENOSPC, "No space left on device"),
        ("pathlib.Path.replace", errno.EACCES, "Permission denied"),
        ("pathlib.Path.chmod", errno.EPERM, "Operation not permitted"),
        ("tempfile.mkstemp", errno.EROFS, "Read-only file system"),
        ("pathlib.Path.mkdir", errno.EDQUOT, "quota exceeded"),
    ],
)
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failed_write_leaves_nothing_new(tmp_path: Path, monkeypatch, place: str, number: int, reason: str, old):
    path = tmp_path / "matrix.npz"
    if old is not None:
        path.write_bytes(old)
    monkeypatch.setattr(place, fail(number))
    with pytest.raises(InputError, match=rf"matrix\.npz: cannot be written: .*{reason}"):
        save_npz(path, {"phi": np.zeros(4)})
    monkeypatch.undo()
    assert contents(tmp_path) == ({} if old is None else {"matrix.npz": old})


def test_a_folder_that_is_a_file_is_named(tmp_path: Path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match=r"out/a\.txt: cannot be written: (File exists|Not a directory)"):
        write_text(tmp_path / "out" / "a.txt", "")


def test_arrays_come_back_as_they_were(tmp_path: Path):
    arrays = {
        "phi": np.array([[1.5, -np.inf], [np.nan, 1e-45]], np.float32),
        "mask": np.array([True, False]),
        "ids": np.array(["a", "ß", ""]),
        "none": np.empty((0, 3), np.int64),
        "metadata": np.array('{"a": 1}'),
    }
    save_npz(tmp_path / "a.npz", arrays)
    loaded = load_npz(tmp_path / "a.npz", required=("phi", "none"))
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_objects_are_not_written(tmp_path: Path):
    with pytest.raises(TypeError, match="'ids' holds Python objects"):
        save_npz(tmp_path / "a.npz", {"ids": np.array(["a", 1], object)})
    assert contents(tmp_path) == {}


class Evil:
    ran = False

    def __setstate__(self, state):
        Evil.ran = True

    def __getstate__(self):
        return {"state": 1}


def npz_bytes(compressed: bool = False, **arrays) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "cannot be read as .npz"),
        (b"id,score\na,1\n", "cannot be read as .npz"),
        (npz_bytes(phi=np.zeros(99))[:-40], "cannot be read as .npz"),
        (npz_bytes(phi=np.zeros(99))[:60], "cannot be read as .npz"),
        (npy_bytes(np.zeros(3)), "cannot be read as .npz: File is not a zip file"),
        (
            npz_bytes(phi=np.array([Evil()], object)),
            "cannot be read as .npz: an array holds Python objects, which are not loaded",
        ),
        (npz_bytes(psi=np.zeros(3), mask=np.zeros(3)), "lacks phi; it holds psi, mask"),
        (npz_bytes(), "lacks phi; it holds nothing"),
    ],
    ids=["empty", "text", "no directory", "cut off", "npy", "pickle", "other arrays", "no arrays"],
)
def test_a_bad_npz_is_named(tmp_path: Path, data: bytes, complaint: str):
    (tmp_path / "bad.npz").write_bytes(data)
    with pytest.raises(InputError, match=rf"bad\.npz: {complaint}") as caught:
        load_npz(tmp_path / "bad.npz", required=("phi",))
    assert "\n" not in str(caught.value)
    assert not Evil.ran


def test_a_missing_npz_and_a_folder_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"none\.npz: no such file"):
        load_npz(tmp_path / "none.npz")
    with pytest.raises(InputError, match=r"cannot be read as \.npz: .*Is a directory"):
        load_npz(tmp_path)


@pytest.mark.parametrize("read", [load_npz, lambda path: read_json(path, "jaxmia run")], ids=["npz", "json"])
def test_a_file_that_is_not_there_or_cannot_be_read_is_not_damaged(tmp_path: Path, read: Callable[[Path], object]):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("hello")
    for name, kind in (("none", UnreadableFile), ("folder", UnreadableFile), ("text", DamagedFile)):
        with pytest.raises(UnreadableFile, match=name) as caught:
            read(tmp_path / name)
        assert caught.type is kind, name


def test_a_file_that_cannot_be_written_has_its_own_type(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableFile, match=r"file/below: cannot be written: .*exists|Not a directory"):
        write_text(tmp_path / "file" / "below", "")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_byte_is_noticed_or_harmless(tmp_path: Path, compressed: bool):
    """Each byte in turn: an `InputError`, or what is read is what was written (the byte is of no meaning)."""
    array = np.arange(12, dtype=np.float32)
    whole = npz_bytes(compressed, phi=array)
    path = tmp_path / "damaged.npz"
    noticed = 0
    for position in range(len(whole)):
        for change in (0x01, 0xFF):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ change]) + whole[position + 1 :])
            try:
                loaded = load_npz(path, required=("phi",))
            except InputError as error:
                noticed += 1
                assert str(error).startswith(str(path))
            else:
                np.testing.assert_array_equal(loaded["phi"], array)
    assert noticed > len(whole)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    whole = npz_bytes(phi=np.arange(6.0), mask=np.ones(2, bool))
    for length in range(len(whole)):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.npz: cannot be read as \.npz"):
            load_npz(tmp_path / "cut.npz")
