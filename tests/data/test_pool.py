from pathlib import Path

import numpy as np
import pytest

from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.files import save_npz

GOOD = {
    "ids": np.array(["a", "b", "c"]),
    "labels": np.array([0, 2, 1]),
    "membership": np.array([1, 0, -1]),
}


def test_public_is_where_membership_is_known(pool: Pool):
    assert pool.public.tolist() == [True] * 30 + [False] * 10
    assert len(pool) == 40


def test_everything_but_the_images_comes_back(tmp_path: Path, pool: Pool):
    pool.save(tmp_path / "pool.npz")
    loaded = Pool.load(tmp_path / "pool.npz")
    assert loaded.images is None
    for name in ("labels", "ids", "membership"):
        assert getattr(loaded, name).dtype == getattr(pool, name).dtype
        np.testing.assert_array_equal(getattr(loaded, name), getattr(pool, name))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ids", np.array([7, 8, 9])),
        ("ids", np.array([b"7", b"8", b"9"])),
        ("labels", np.array([0, 2, 1], np.uint8)),
        ("membership", np.array([True, False, True])),
    ],
)
def test_other_types_of_the_same_values_are_read(tmp_path: Path, field: str, value: np.ndarray):
    save_npz(tmp_path / "pool.npz", {**GOOD, field: value})
    loaded = getattr(Pool.load(tmp_path / "pool.npz"), field)
    np.testing.assert_array_equal(loaded, value.astype(loaded.dtype))


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("ids", np.array([["a", "b", "c"]]), r"ids has shape \[1, 3\], expected \[sample\]"),
        ("ids", np.array(["a", "b", "a"]), "ids: 'a' occurs 2 times, expected once"),
        ("ids", np.array([b"a", b"b", b"\xff"]), "ids: .* is not ASCII text"),
        ("labels", np.array([0.0, 1.0, 2.0]), "labels is float64, expected integers"),
        ("labels", np.array(["0", "1", "2"]), "labels is <U1, expected integers"),
        ("labels", np.array([0, 1, -1]), "labels: -1 is not a class"),
        ("labels", np.array([0, 1, 2**40]), f"labels: {2**40} is not a class"),
        ("labels", np.array([0, 1]), "lengths differ: labels 2, ids 3, membership 3"),
        ("membership", np.array([1, 0, 2]), "membership: 2 is not one of 1, 0, -1"),
        ("membership", np.array([1, 0, 255], np.uint8), "membership: 255 is not one of 1, 0, -1"),
        ("membership", np.array([1.0, 0.0, np.nan]), "membership is float64, expected integers"),
    ],
)
def test_a_bad_field_is_named(tmp_path: Path, field: str, value: np.ndarray, complaint: str):
    save_npz(tmp_path / "pool.npz", {**GOOD, field: value})
    with pytest.raises(InputError, match=rf"pool\.npz: {complaint}"):
        Pool.load(tmp_path / "pool.npz")


def test_a_missing_field_is_named(tmp_path: Path):
    save_npz(tmp_path / "pool.npz", {"ids": GOOD["ids"]})
    with pytest.raises(InputError, match=r"pool\.npz: lacks labels, membership; it holds ids"):
        Pool.load(tmp_path / "pool.npz")


def test_images_must_be_as_many_as_the_rest():
    with pytest.raises(InputError, match="lengths differ: labels 3, ids 3, membership 3, images 2"):
        Pool(np.zeros((2, 4, 4, 1), np.uint8), **GOOD)


def test_arrays_of_another_kind_are_refused():
    images, labels, ids, membership = (
        np.zeros((2, 3, 4), np.uint8),
        np.zeros(2, int),
        np.array(["a", "b"]),
        np.ones(2, int),
    )
    with pytest.raises(InputError, match=r"pool: images have shape \[2, 3, 4\], expected \[sample, height, width"):
        Pool(images, labels, ids, membership)
    with pytest.raises(InputError, match=r"pool: images have shape \[2, 0, 3, 1\], expected at least one number"):
        Pool(np.zeros((2, 0, 3, 1), np.uint8), labels, ids, membership)
    with pytest.raises(InputError, match=r"pool: rows of int64 may be features or token ids; give features as float32"):
        Pool(images[0].astype(np.int64)[:2], labels, ids, membership)
    with pytest.raises(InputError, match="pool: labels is a list, expected a NumPy array"):
        Pool(None, [0, 1], ids, membership)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="pool: images is a list, expected a NumPy array"):
        Pool(images.tolist(), labels, ids, membership)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("ids", np.array(["a", "b", "a"]), "ids: 'a' occurs 2 times, expected once"),
        ("ids", np.array([7, 8, 7]), "ids: '7' occurs 2 times, expected once"),
        ("labels", np.array([0, -3, 1]), "labels: -3 is not a class; classes are counted from 0"),
        ("labels", np.array([0.0, 1.0, 2.0]), "labels is float64, expected integers"),
        ("labels", np.array([[0], [1], [2]]), r"labels has shape \[3, 1\], expected \[sample\]"),
        ("membership", np.array([1, 0, 2]), r"membership: 2 is not one of 1, 0, -1 \(unknown\)"),
        ("images", np.full((3, 4, 4, 1), np.nan, np.float32), "images hold nan, expected finite numbers"),
        ("images", np.array([[1.0], [np.inf], [0.0]]), "images hold inf, expected finite numbers"),
        ("images", np.full((3, 4, 4, 1), 255.0), "images hold 255.0, allowed are floats from 0 to 1, or uint8 from 0"),
        ("images", np.zeros((3, 4, 4, 1), np.int64), "images are int64, expected uint8 in 0 to 255 or floats in 0 to"),
        ("images", memoryview(b"abc"), "images is a memoryview, expected a NumPy array"),
        ("images", np.array([["a"], ["b"], ["c"]]), "images are <U1, expected numbers"),
        ("images", np.ones((3, 2), complex), "images are complex128, expected numbers"),
        ("images", np.full((3, 2), 1e300), r"images hold 1e\+300, expected finite numbers of float32"),
        ("ids", np.array(["a", 1, None], object), "ids is object, expected text or integers"),
        ("ids", np.array([0.5, 1.5, 2.5]), "ids is float64, expected text or integers"),
    ],
)
def test_a_pool_made_in_python_is_held_to_the_same_rules(field: str, value: np.ndarray, complaint: str):
    good = {**GOOD, "images": np.zeros((3, 4, 4, 1), np.uint8)}
    with pytest.raises(InputError, match=f"^pool: {complaint}"):
        Pool(**{**good, field: value})


def test_a_pool_is_shown_in_one_line(pool: Pool):
    assert repr(pool.take(np.arange(0))).endswith("0 public and 0 private samples)")
    assert len(repr(pool)) < 100


def test_features_may_be_of_any_size():
    assert len(Pool(np.array([[1e9], [-1e9], [0.5]]), **GOOD)) == 3


def test_memberships_can_be_hidden(pool: Pool):
    chosen = np.arange(len(pool)) % 3 == 0
    hidden = pool.hiding(chosen)
    assert hidden.membership.tolist() == [
        -1 if hide else value for hide, value in zip(chosen, pool.membership.tolist(), strict=True)
    ]
    assert hidden.membership.dtype == np.int8
    assert hidden.images is pool.images
