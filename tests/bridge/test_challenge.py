import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from bridge.challenge import load_challenge, load_split, save_challenge, save_truth
from jaxmia.data.kinds import as_stored
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.leaderboard.submission import read_truth
from tests.bridge.samples import fields, levels
from tests.warm import warm_python

MINI = Path(__file__).parents[3] / "shared" / "challenges" / "mini"


def test_pool_holds_public_then_private(write):
    private = fields(first=200, seed=1) | {"membership": [None] * 6}
    pool = load_challenge(write("pub.pt"), write("priv.pt", **private))
    assert pool.images is not None
    assert pool.images.dtype == np.float32
    np.testing.assert_array_equal(pool.images, np.concatenate([levels(0), levels(1)]) / np.float32(255))
    assert pool.ids.tolist() == [str(i) for i in [*range(100, 106), *range(200, 206)]]
    assert pool.labels.tolist() == [0, 1, 2, 0, 1, 2] * 2
    assert pool.membership.tolist() == [0, 1, 0, 1, 0, 1] + [-1] * 6


def test_membership_in_the_private_file_is_never_read(write):
    assert (load_split(write(membership=[1, 0, 7, "x", 1, 0]), known=False).membership == -1).all()


@pytest.mark.parametrize(
    "convert",
    [
        int,
        torch.tensor,
        lambda value: torch.tensor([value]),
        lambda value: torch.tensor(value, dtype=torch.uint8),
        np.int64,
        np.uint8,
        lambda value: np.array([value]),
        lambda value: np.array([value], ">i2"),
        lambda value: np.array(value, np.int32),
        lambda value: torch.tensor(float(value)),
    ],
)
def test_numbers_of_every_kind(write, convert):
    plain = fields()
    changes = {name: [convert(value) for value in plain[name]] for name in ("labels", "membership", "ids")}
    part = load_split(write(**changes), known=True)
    assert part.labels.tolist() == plain["labels"]
    assert part.membership.tolist() == plain["membership"]
    assert part.ids.tolist() == [str(i) for i in plain["ids"]]


def test_columns_as_one_tensor_or_array(write):
    plain = fields()
    path = write(
        ids=torch.tensor(plain["ids"]),
        labels=np.array(plain["labels"])[:, None],
        membership=torch.tensor(plain["membership"]),
        imgs=torch.stack(plain["imgs"]),
    )
    part, expected = load_split(path, known=True), load_split(write(), known=True)
    for name in ("ids", "labels", "membership", "images"):
        np.testing.assert_array_equal(getattr(part, name), getattr(expected, name))


def test_string_ids_and_booleans(write):
    part = load_split(write(ids=list("abcdef"), membership=[True, False] * 3), known=True)
    assert part.ids.tolist() == list("abcdef")
    assert part.membership.tolist() == [1, 0] * 3


def test_a_plain_dict_is_a_challenge_too(tmp_path):
    torch.save(fields(), tmp_path / "pub.pt")
    np.testing.assert_array_equal(load_split(tmp_path / "pub.pt", known=True).images, levels() / np.float32(255))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_float_images_that_are_no_bytes_stay_float32(write, dtype, channels):
    images = torch.rand(6, channels, 5, 4, dtype=torch.float64, generator=torch.manual_seed(0)).to(dtype)
    part = load_split(write(imgs=list(images)), known=True)
    assert part.images is not None
    assert part.images.dtype == np.float32
    np.testing.assert_array_equal(part.images, images.float().permute(0, 2, 3, 1).numpy())


def test_one_inexact_pixel_keeps_float32(write):
    images = fields()["imgs"]
    images[5][2, 4, 3] = float(np.nextafter(np.float32(0.5), np.float32(1)))
    part = load_split(write(imgs=images), known=True)
    assert part.images is not None
    assert part.images.dtype == np.float32
    assert part.images[5, 4, 3, 2] == np.nextafter(np.float32(0.5), np.float32(1))


def test_all_bytes_survive_in_every_type(write):
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    for image in (ramp, ramp.float() / 255, ramp.double() / 255):
        part = load_split(write(ids=[0], labels=[0], membership=[0], imgs=image), known=True)
        assert part.images is not None
        assert part.images.dtype == (np.uint8 if image.dtype == torch.uint8 else np.float32)
        kept = as_stored(part.images)
        assert kept.dtype == np.uint8
        assert kept.ravel().tolist() == list(range(256))


@pytest.mark.parametrize("name", ["pub.pt", "pub.npz"])
def test_a_float_pool_of_zeros_and_ones_comes_back_as_it_was(tmp_path, name):
    images = np.random.default_rng(0).integers(0, 2, (4, 1, 7, 1)).astype(np.float32)
    pool = Pool(images, np.zeros(4, np.int32), np.array(list("abcd")), np.array([0, 1, 0, 1], np.int8))
    save_challenge(pool, tmp_path / name, tmp_path / f"none-{name}")
    again = load_split(tmp_path / name, known=True).images
    assert again is not None
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, images)


def test_mixed_types_of_the_two_files_become_float32(write):
    images = list(torch.rand(6, 3, 5, 4, generator=torch.manual_seed(0)))
    pool = load_challenge(write("pub.pt"), write("priv.pt", ids=list(range(6)), imgs=images))
    assert pool.images is not None
    assert pool.images.dtype == np.float32
    np.testing.assert_array_equal(pool.images[:6], levels() / np.float32(255))
    np.testing.assert_array_equal(pool.images[6:], torch.stack(images).permute(0, 2, 3, 1).numpy())


def test_rounding_outside_the_unit_interval_is_clipped(write):
    images = torch.stack(fields()["imgs"])
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 1 + 1e-6, -1e-6
    part = load_split(write(imgs=list(images)), known=True)
    assert part.images is not None
    assert (part.images[0, 0, 0, 0], part.images[0, 0, 1, 0]) == (1, 0)


def test_views_into_shared_storages_load(write):
    whole = torch.stack(fields()["imgs"])
    kept = load_split(write(imgs=list(whole)), known=True).images
    np.testing.assert_array_equal(kept, levels() / np.float32(255))


def test_a_class_of_another_module(tmp_path, monkeypatch):
    module = types.ModuleType("course_data")
    module.Patches = type("Patches", (), {"__module__": "course_data"})  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "course_data", module)
    data = module.Patches()
    vars(data).update(fields())
    torch.save(data, tmp_path / "pub.pt")
    with pytest.raises(InputError, match=r"pub\.pt: names course_data\.Patches, allowed are tensors, __main__\.Mem"):
        load_split(tmp_path / "pub.pt", known=True)
    assert len(load_split(tmp_path / "pub.pt", known=True, classes=["course_data.Patches"])) == 6


def nan_image(value):
    images = fields()["imgs"]
    images[3][1, 2, 2] = value
    return images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": [1, 2, 3]}, r"lengths differ: ids 3, labels 6, membership 6, imgs 6$"),
        ({"labels": [0]}, r"lengths differ: .*labels 1"),
        ({"imgs": fields()["imgs"][:2]}, r"lengths differ: .*imgs 2$"),
        ({"imgs": nan_image(float("nan"))}, r"imgs\[3\] has a pixel of nan, allowed are 0 to 1 \(0 to 255 as uint8\)$"),
        ({"imgs": nan_image(float("inf"))}, r"imgs\[3\] has a pixel of inf"),
        ({"imgs": nan_image(1.5)}, r"imgs\[3\] has a pixel of 1\.5"),
        ({"imgs": nan_image(-0.5)}, r"imgs\[3\] has a pixel of -0\.5"),
        ({"imgs": [image.double() * 1e300 for image in fields()["imgs"]]}, r"imgs\[0\] has a pixel of inf"),
        (
            {"imgs": [*fields()["imgs"][:5], torch.zeros(3, 4, 4)]},
            r"imgs\[5\] is float32 \(3, 4, 4\), imgs\[0\] float32 \(3, 5, 4\); expected one type and shape$",
        ),
        ({"imgs": [*fields()["imgs"][:5], torch.zeros(3, 5, 4).byte()]}, r"imgs\[5\] is uint8"),
        ({"imgs": list(torch.zeros(6, 5, 4, 3))}, r"imgs have shape \(6, 5, 4, 3\), expected .* 1 or 3 channels$"),
        ({"imgs": list(torch.zeros(6, 5, 4))}, r"imgs have shape \(6, 5, 4\)"),
        ({"imgs": list(torch.zeros(6, 3, 0, 4))}, r"imgs hold no pixels$"),
        (
            {"imgs": list(torch.zeros(6, 3, 5, 4).bfloat16())},
            r"imgs\[0\] is a tensor of bfloat16, expected a plain tensor of uint8",
        ),
        ({"imgs": list(torch.zeros(6, 3, 5, 4).int())}, r"imgs\[0\] is an array of int32 .*, expected a plain"),
        ({"imgs": ["a.png"] * 6}, r"imgs\[0\] is 'a\.png', expected a plain tensor"),
        ({"imgs": []}, r"imgs hold no pixels$"),
        ({"imgs": torch.zeros(6, 3, 5, 4).to_sparse()}, r"imgs\[0\] is a sparse tensor, expected a plain tensor"),
        ({"imgs": torch.zeros(6, 3, 5, 4, device="meta")}, r"imgs\[0\] is a meta tensor, which has no values, exp"),
        ({"labels": [0, 1, 2, 0, 9, 2]}, r"labels\[4\] is 9, allowed is an integer from 0 to 8$"),
        ({"labels": [0, 1, 2, 0, -1, 2]}, r"labels\[4\] is -1, allowed is an integer from 0 to 8$"),
        ({"labels": [0, 1, 2.5, 0, 1, 2]}, r"labels\[2\] is 2\.5"),
        ({"labels": [0, 1, float("nan"), 0, 1, 2]}, r"labels\[2\] is nan"),
        ({"labels": [0, 1, None, 0, 1, 2]}, r"labels\[2\] is None"),
        ({"labels": [0, 1, "2", 0, 1, 2]}, r"labels\[2\] is '2'"),
        ({"labels": [0, 1, torch.tensor([1, 2]), 0, 1, 2]}, r"labels\[2\] is an array of int64 \(2,\)"),
        ({"labels": [10**30] * 6}, r"labels\[0\] is a int"),
        ({"labels": 3}, r"labels is 3, expected a list or a tensor with one entry per sample$"),
        ({"ids": [1, 2, 3, 4, 1, 6]}, r"ids\[4\] is '1', as ids\[0\] is; expected each id once$"),
        ({"ids": [1, 2, 3, 4, "1", 6]}, r"ids\[4\] is '1', as ids\[0\] is"),
        ({"ids": [1, 2, 3, None, 5, 6]}, r"ids\[3\] is None, allowed is an integer or a printable string$"),
        ({"ids": [1, 2, 3, 0.5, 5, 6]}, r"ids\[3\] is 0\.5"),
        ({"ids": [1, 2, 3, "a\0", 5, 6]}, r"ids\[3\] is 'a\\x00'"),
        ({"ids": [1, 2, 3, "", 5, 6]}, r"ids\[3\] is ''"),
        ({"membership": [0, 1, None, 1, None, 1]}, r"membership is missing for 2 of 6 samples, first membership\[2\]"),
        ({"membership": [None] * 6}, r"membership is missing for 6 of 6 samples"),
        ({"membership": None}, r"lacks membership; it holds 'ids', 'imgs', 'labels', 'membership', 'transform'$"),
        ({"membership": [0, 1, 2, 1, 0, 1]}, r"membership\[2\] is 2, allowed is 1 \(member\) or 0 \(non-member\)$"),
    ],
)
def test_refused(write, changes, message):
    with pytest.raises(InputError, match=rf"pub\.pt: {message}") as caught:
        load_split(write(**changes), known=True, num_classes=9)
    assert "\n" not in str(caught.value)


def test_an_id_in_both_files_is_refused(write):
    with pytest.raises(InputError, match=r"priv\.pt: ids: '103' is also in .*pub\.pt, expected each id once$"):
        load_challenge(write("pub.pt"), write("priv.pt", **fields(first=103)))


def test_files_of_different_image_size_are_refused(write):
    other = fields(first=200, shape=(3, 4, 4))
    with pytest.raises(
        InputError, match=r"priv\.pt: its images have shape \(4, 4, 3\), those of .*pub\.pt \(5, 4, 3\)"
    ):
        load_challenge(write("pub.pt"), write("priv.pt", **other))


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), "text", {"ids": [1]}])
def test_another_object_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "pub.pt")
    with pytest.raises(InputError, match=r"pub\.pt: (contains|lacks) .*imgs, labels, membership"):
        load_split(tmp_path / "pub.pt", known=True)


def test_written_files_open_in_the_course_s_own_loader(tmp_path):
    pool = Pool(
        images=np.concatenate([levels(0), levels(1)]),
        labels=np.arange(12, dtype=np.int32) % 3,
        ids=np.array([*map(str, range(10)), "007", "x"]),
        membership=np.array([0, 1] * 3 + [-1] * 6, np.int8),
    )
    save_challenge(pool, tmp_path / "pub.pt", tmp_path / "priv.pt")
    loader = """
import sys, torch
from torch.utils.data import Dataset
class TaskDataset(Dataset):
    def __init__(self, transform=None):
        self.ids, self.imgs, self.labels, self.transform = [], [], [], transform
    def __getitem__(self, index):
        image = self.imgs[index]
        return self.ids[index], image if self.transform is None else self.transform(image), self.labels[index]
class MembershipDataset(TaskDataset):
    def __init__(self, transform=None):
        super().__init__(transform)
        self.membership = []
    def __getitem__(self, index):
        return *super().__getitem__(index), self.membership[index]
public, private = (torch.load(path, weights_only=False) for path in sys.argv[1:])
assert type(public) is MembershipDataset
identifier, image, label, membership = public[1]
assert (identifier, label, membership) == (1, 1, 1), (identifier, label, membership)
assert image.dtype == torch.float32 and image.shape == (3, 5, 4) and 0 <= image.min() <= image.max() <= 1
assert all(image.untyped_storage().nbytes() == 3 * 5 * 4 * 4 for image in public.imgs + private.imgs)
assert private.ids == [6, 7, 8, 9, "007", "x"] and private.membership == [None] * 6
"""
    subprocess.run([warm_python(), "-c", loader, "pub.pt", "priv.pt"], cwd=tmp_path, check=True)
    again = load_challenge(tmp_path / "pub.pt", tmp_path / "priv.pt")
    assert again.images is not None
    np.testing.assert_array_equal(as_stored(again.images), pool.images)
    for name in ("labels", "ids", "membership"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pool, name))
        assert getattr(again, name).dtype.kind == getattr(pool, name).dtype.kind


def test_writing_leaves_main_as_it_was(tmp_path, monkeypatch):
    pool = Pool(levels(), np.zeros(6, np.int32), np.array(list("abcdef")), np.array([0, 1] * 3, np.int8))
    marker = object()
    for before in ({}, {"MembershipDataset": marker}):
        monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
        vars(sys.modules["__main__"]).update(before)
        save_challenge(pool, tmp_path / "pub.pt", tmp_path / "priv.pt")
        assert vars(sys.modules["__main__"]).get("MembershipDataset") is before.get("MembershipDataset")


def test_a_write_that_fails_leaves_no_file(tmp_path, monkeypatch):
    pool = Pool(levels(), np.zeros(6, np.int32), np.array(list("abcdef")), np.array([0, 1] * 3, np.int8))

    def fail(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        save_challenge(pool, tmp_path / "pub.pt", tmp_path / "priv.pt")
    assert list(tmp_path.iterdir()) == []


def test_truth_is_what_evaluate_reads(tmp_path):
    save_truth(tmp_path / "truth.csv", np.array(["7", "a,b", "ä"]), np.array([1, 0, 1], np.int8))
    ids, members = read_truth(tmp_path / "truth.csv")
    assert ids.tolist() == ["7", "a,b", "ä"]
    assert members.tolist() == [True, False, True]


def test_a_pool_without_images_cannot_be_written(tmp_path):
    pool = Pool(None, np.zeros(1, np.int32), np.array(["a"]), np.array([1], np.int8))
    with pytest.raises(InputError, match=r"pool: has no images"):
        save_challenge(pool, tmp_path / "pub.pt", tmp_path / "priv.pt")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from Linux")
def test_a_challenge_of_full_size_loads_in_time_and_memory(tmp_path):
    random = np.random.default_rng(0)
    pool = Pool(
        images=random.integers(0, 256, (28_000, 28, 28, 3), np.uint8),
        labels=np.zeros(28_000, np.int32),
        ids=np.arange(28_000).astype(np.str_),
        membership=np.repeat(np.array([0, 1, -1, -1], np.int8), 7_000),
    )
    save_challenge(pool, tmp_path / "pub.pt", tmp_path / "priv.pt")
    measure = """
import re, time
from pathlib import Path
from bridge.challenge import load_challenge
start = time.process_time()
pool = load_challenge("pub.pt", "priv.pt")
seconds = time.process_time() - start
print(len(pool), seconds, *re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()))
"""
    run = [sys.executable, "-c", measure]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        run, cwd=tmp_path, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": root}
    )
    count, seconds, kibibytes = done.stdout.split()
    assert int(count) == 28_000
    assert float(seconds) < 15
    assert int(kibibytes) * 1024 < 1.2e9


@pytest.mark.skipif(not MINI.is_dir(), reason="needs the mini challenge")
def test_mini_challenge_holds_what_pytorch_reads(write):
    write()  # shows the class to pickle
    pool = load_challenge(MINI / "pub.pt", MINI / "priv.pt", num_classes=9)
    public, private = (torch.load(MINI / name, weights_only=False) for name in ("pub.pt", "priv.pt"))
    assert pool.images is not None
    assert as_stored(pool.images).dtype == np.uint8
    images = torch.stack(public.imgs + private.imgs).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(pool.images, images)
    assert pool.labels.tolist() == [int(label) for label in public.labels + private.labels]
    assert pool.ids.tolist() == [str(name) for name in public.ids + private.ids]
    assert pool.membership.tolist() == [int(value) for value in public.membership] + [-1] * 500
