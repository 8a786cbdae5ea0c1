import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from bridge.challenge import load_split
from bridge.target import read_weights
from jaxmia.errors import InputError
from tests.bridge.samples import MembershipDataset, fields


def test_missing_empty_text_and_folder(tmp_path):
    for content, message in (
        (b"", r"is empty$"),
        (b"id,score\n1,0.5\n", r"is cut short or not a torch\.save file"),
    ):
        (tmp_path / "pub.pt").write_bytes(content)
        with pytest.raises(InputError, match=rf"pub\.pt: {message}"):
            load_split(tmp_path / "pub.pt", known=True)
    with pytest.raises(InputError, match=r"none\.pt: cannot be read: No such file or directory$"):
        load_split(tmp_path / "none.pt", known=True)
    with pytest.raises(InputError, match=r"cannot be read: Is a directory$"):
        load_split(tmp_path, known=True)


def test_cut_short_anywhere(write):
    path = write()
    content = path.read_bytes()
    for size in range(1, len(content), 97):
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match=r"pub\.pt: is cut short or not a torch\.save file"):
            load_split(path, known=True)


def test_damaged_bytes_are_refused_or_read_never_crash(write):
    path = write()
    content = path.read_bytes()
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(content)
        damaged[random.integers(len(content))] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        try:
            outcomes.add(len(load_split(path, known=True)))
        except InputError as error:
            assert str(error).startswith(str(path))
            outcomes.add("refused")
    assert outcomes == {6, "refused"}


def test_size_limits(write):
    path = write()
    size = path.stat().st_size
    with pytest.raises(InputError, match=rf"pub\.pt: has {size} bytes, allowed are {size - 1}$"):
        load_split(path, known=True, max_bytes=size - 1)
    assert len(load_split(path, known=True, max_bytes=size)) == 6


def test_a_file_that_unpacks_to_more_than_allowed_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "pub.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**7))
    with pytest.raises(InputError, match=r"pub\.pt: unpacks to 10000000 bytes, but has \d+; torch\.save neither"):
        load_split(tmp_path / "pub.pt", known=True, max_bytes=10**6)


def test_one_pixel_repeated_without_end_is_refused(write):
    endless = torch.zeros(1).expand(3, 10**6, 10**6)
    with pytest.raises(InputError, match=r"its tensors repeat stored bytes too often: they have 12000000000000 bytes"):
        load_split(write(imgs=[endless] * 6), known=True)


class Runs:
    """Pickles as a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def marker_command():
    return f'{sys.executable} -c \'open("ran", "w")\''


@pytest.mark.parametrize(
    ("hostile", "names"),
    [
        (lambda: Runs(os.system, marker_command()), "posix.system"),
        (lambda: Runs(eval, "open('ran', 'w')"), "builtins.eval"),
        (lambda: Runs(exec, "open('ran', 'w')"), "builtins.exec"),
        (lambda: Runs(subprocess.Popen, marker_command()), "subprocess.Popen"),
        (lambda: Runs(getattr, "torch", "load"), "builtins.getattr"),
        (lambda: Runs(np.memmap, "ran", "uint8", "w+", 0, (4,)), "numpy.memmap"),
        (lambda: Runs(pickle.loads, pickle.dumps(Runs(os.system, marker_command()))), "pickle.loads"),
        (lambda: Runs(Path, "x"), r"pathlib(\._local)?\.Path"),
    ],
)
@pytest.mark.parametrize("field", ["ids", "imgs", "labels", "membership", "transform"])
def test_foreign_globals_are_named_and_not_run(write, tmp_path, monkeypatch, hostile, names, field):
    monkeypatch.chdir(tmp_path)
    for value in (hostile(), [hostile()] * 6):
        with pytest.raises(InputError, match=rf"pub\.pt: names {names}, allowed are .*; nothing of it was run$"):
            load_split(write(**{field: value}), known=True)
    assert not (tmp_path / "ran").exists()


def test_the_legacy_format_is_refused_unread(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {**fields(), "transform": Runs(os.system, marker_command())}
    torch.save(data, tmp_path / "pub.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(
        InputError, match=r"is cut short or not a torch\.save file: expected the zip format of PyTorch since 1\.6$"
    ):
        load_split(tmp_path / "pub.pt", known=True)
    assert not (tmp_path / "ran").exists()


def test_naming_a_dangerous_class_does_not_run_it(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"pub\.pt: is damaged or not allowed"):
        load_split(
            write(transform=Runs(eval, "open('ran', 'w')")),
            known=True,
            classes=["builtins.eval", "__main__.MembershipDataset"],
        )
    assert not (tmp_path / "ran").exists()


def test_a_class_that_sets_its_own_state_is_a_stand_in(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MembershipDataset, "__setstate__", lambda self, state: Path("ran").touch(), raising=False)
    assert len(load_split(write(), known=True)) == 6
    assert not (tmp_path / "ran").exists()


def test_methods_hung_on_a_tensor_are_refused(write):
    image = fields()["imgs"][0]
    image.numpy = torch.Size
    with pytest.raises(InputError, match=r"imgs\[0\] is a Tensor with attributes, expected a plain tensor"):
        load_split(write(imgs=[image] * 6), known=True)


def test_names_from_a_file_cannot_write_to_the_terminal(tmp_path):
    write_pickle(tmp_path / "pub.pt", b"\x80\x02cevil\x1b[2J\ncode" + b"x" * 10**4 + b"\n)R.")
    with pytest.raises(InputError, match=r"pub\.pt: names evil\?\[2J\.codexxx.*xx\.\.\., allowed are") as caught:
        load_split(tmp_path / "pub.pt", known=True)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("numel", [10**4, 2**31, 2**40, 2**62])
def test_storages_that_declare_more_than_they_hold_are_refused(tmp_path, numel):
    path = tmp_path / "pub.pt"
    write_pickle(path, b"".join((TENSOR, number(numel), b"tQK\0", number(numel), b"\x85K\x01\x85\x89", HOOKS, b"tR.")))
    with pytest.raises(InputError, match=r"pub\.pt: is damaged or not allowed"):
        load_split(path, known=True)


@pytest.mark.parametrize("offset", [0, 100, 2**40])
def test_tensors_that_reach_beyond_their_storage_are_refused(tmp_path, offset):
    path = tmp_path / "pub.pt"
    body = b"".join((TENSOR, number(4), b"tQ", number(offset), number(2**40), b"\x85K\x01\x85\x89", HOOKS, b"tR."))
    write_pickle(path, body)
    with pytest.raises(InputError, match=r"pub\.pt: is damaged or not allowed"):
        load_split(path, known=True)


@pytest.mark.parametrize(
    "body",
    [
        b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x89\x88\x87R.",
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00V8\x89\x88\x87R.",
        b"\x80\x02cnumpy\nndarray\n)R" + b"(K\x01K\x04\x85NNNtb.",
        b"\x80\x02c__main__\nMembershipDataset\nK\x01\x85R.",
        b"\x80\x02c__main__\nMembershipDataset\nK\x01\x85\x81.",
        b"\x80\x02" + b"\x85" * 10**5 + b".",
        b"\x80\x02]" + b"\x85" * 10**6 + b".",
        b"\x80\x02.",
        b"\x80\x02X\xff\xff\xff\x7f.",
        b"\x80\x04\x95",
        b"",
    ],
)
def test_hand_made_pickles_are_refused(tmp_path, body):
    write_pickle(tmp_path / "pub.pt", body)
    with pytest.raises(InputError, match=r"pub\.pt: (is damaged or not allowed|contains a tuple, expected an object)"):
        load_split(tmp_path / "pub.pt", known=True)


TENSOR = (
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
)
HOOKS = b"ccollections\nOrderedDict\n)R"


def number(value):
    return b"\x8a\x09" + value.to_bytes(9, "little")


def write_pickle(path, body):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", body), ("version", b"3\n"), ("byteorder", b"little"), ("data/0", bytes(16))):
            archive.writestr(f"archive/{name}", content)


def test_tensors_of_more_dimensions_than_numpy_knows_are_named(tmp_path, write):
    deep = torch.zeros(1)[(None,) * 65]
    torch.save({"fc.weight": deep}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model.pt: fc.weight is a tensor of torch.float32"):
        read_weights(tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"priv.pt: labels is a tensor of float32"):
        load_split(write("priv.pt", labels=deep), known=False)


def test_a_name_in_a_pickle_imports_no_part_of_torch(tmp_path):
    path = tmp_path / "priv.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02ctorch\n_inductor\n.")
    code = (
        "import sys; from pathlib import Path; from bridge.safeload import load; from jaxmia.errors import InputError\n"
        f"try: load(Path({str(path)!r}), max_bytes=1000)\n"
        "except InputError as error: print(error, 'torch._inductor' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("names torch._inductor, allowed are tensors; nothing of it was run False\n")
