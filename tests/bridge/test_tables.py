"""Pools in `.npz` and `.csv` files."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from bridge.challenge import load_challenge, load_ids, load_split, save_challenge
from bridge.open import open_pool
from bridge.table import save_table
from jaxmia.config import ChallengeConfig
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from tests.conftest import Records, telling

PUBLIC = "id,age,label,job,membership,height\na,30,0,nurse,1,1.5\nb,41,1,smith,0,-2e3\nc,30,2,nurse,1,0\n"
PRIVATE = "id,age,label,job,height\nd,7,1,baker,0.25\ne,8,0,smith,3\n"
HALF = {"ids": np.array(["a", "b"]), "labels": np.array([0, 1]), "membership": np.array([1, 0])}


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def without(text: str, *columns: str) -> str:
    rows = list(csv.DictReader(io.StringIO(text)))
    kept = [name for name in rows[0] if name not in columns]
    return "\n".join(",".join(row) for row in [kept, *([row[name] for name in kept] for row in rows)])


def test_every_column_of_a_csv_that_is_not_named_is_a_feature(write):
    public, private = write("pub.csv", without(PUBLIC, "job")), write("priv.csv", without(PRIVATE, "job"))
    pool = load_challenge(public, private)
    assert pool.images is not None
    assert pool.images.dtype == np.float32
    np.testing.assert_array_equal(pool.images, np.float32([[30, 1.5], [41, -2e3], [30, 0], [7, 0.25], [8, 3]]))
    assert pool.ids.tolist() == list("abcde")
    assert pool.labels.tolist() == [0, 1, 2, 1, 0]
    assert pool.membership.tolist() == [1, 0, 1, -1, -1]


def test_one_hot_columns_have_the_categories_of_both_files_in_their_place(write):
    pool = load_challenge(write("pub.csv", PUBLIC), write("priv.csv", PRIVATE), one_hot=["job"])
    assert pool.images is not None
    jobs = {"baker": [1, 0, 0], "nurse": [0, 1, 0], "smith": [0, 0, 1]}
    expected = [[30, *jobs["nurse"], 1.5], [41, *jobs["smith"], -2e3], [30, *jobs["nurse"], 0]]
    expected += [[7, *jobs["baker"], 0.25], [8, *jobs["smith"], 3]]
    np.testing.assert_array_equal(pool.images, np.float32(expected))


def test_membership_in_the_private_file_is_never_read(write):
    text = without(PUBLIC, "job").replace(",1,1.5", ",oops,1.5")
    assert (load_split(write("priv.csv", text), known=False).membership == -1).all()
    with pytest.raises(InputError, match=r"priv\.csv: membership in line 2 is 'oops', allowed is 1 \(member\) or 0"):
        load_split(write("priv.csv", text), known=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PUBLIC, r"column job holds text, as 'nurse' in line 2; name them in challenge\.one_hot or leave them out"),
        (PUBLIC.replace("41", ""), r"column age holds 1 value that is missing or not finite in float32.* line 3"),
        (PUBLIC.replace("30", "NaN"), r"column age holds 2 values that are missing or not finite in float32.* line 2"),
        (PUBLIC.replace("30", "1e40"), r"column age holds 2 values that are missing or not finite in float32"),
        (PUBLIC.replace("30", "inf").replace("1.5", "?"), r"columns age, height hold 3 values that are missing"),
        (without(PUBLIC, "label"), r"lacks the column label; its first line names id, age, job, membership, height"),
        (without(PUBLIC, "membership"), r"lacks the column membership; its first line names id, age, label, job"),
        (PUBLIC.replace("height", "age"), r"column age occurs twice"),
        ("," + PUBLIC.replace("\n", "\n0,", 3), r"column 1 has no name; is it an index of pandas\? \(index=False\)"),
        (PUBLIC.replace(",1.5", ""), r"line 2 has 5 columns, the first 6"),
        (
            PUBLIC.replace(",0,nurse", ",0.5,nurse").replace("nurse", "1").replace("smith", "2"),
            r"label in line 2 is '0\.5'",
        ),
        (without(PUBLIC, "job").replace("b,", "a,"), r"id in line 3 is 'a', as id in line 2 is; expected each id once"),
        (without(PUBLIC, "job", "age", "height"), r"has no features, as its only columns are id, label, membership"),
        ("id,label,membership,x\n", r"has no row below the header"),
        ("id;label;membership;x\na;0;1;2\n", r"lacks the column id, label, membership; its first line names id;label"),
        (b"id,label,membership,x\na,0,1,\xff\n", r"is not UTF-8 text"),
        ('id,label,membership,x\na,0,1,"2\n', r"cannot be read as CSV: unexpected end of data"),
        ("", r"is empty"),
        (
            "id,label,membership,x\na,0,1," + "1" * 2**21 + "\n",
            r"cannot be read as CSV: a line is longer than",
        ),
        (without(PUBLIC, "job").replace("41", "4_1"), r"column age holds text, as '4_1' in line 3"),
    ],
)
def test_tables_that_are_refused(write, text: str | bytes, message: str):
    with pytest.raises(InputError, match=r"pub\.csv: " + message):
        load_split(write("pub.csv", text), known=True)


def test_columns_of_the_two_files_are_compared(write):
    public, private = write("pub.csv", without(PUBLIC, "job")), write("priv.csv", without(PRIVATE, "job", "age"))
    with pytest.raises(InputError, match=r"priv\.csv: lacks the column age of .*pub\.csv"):
        load_challenge(public, private)
    turned = write("priv.csv", "id,height,label,age\nd,1,2,3\n")
    with pytest.raises(InputError, match=r"priv\.csv: its columns are in another order than those of .*pub\.csv"):
        load_challenge(public, turned)
    other = write("priv.csv", "id,height,label,weight\nd,1,2,3\n")
    with pytest.raises(InputError, match=r"priv\.csv: lacks the column age of .*pub\.csv"):
        load_challenge(public, other)


def test_columns_for_one_hot_must_be_there(write, tmp_path: Path):
    with pytest.raises(InputError, match=r"pub\.csv: lacks the column town; its first line names id, age"):
        load_challenge(write("pub.csv", PUBLIC), write("priv.csv", PRIVATE), one_hot=["job", "town"])
    with pytest.raises(InputError, match=r"priv\.csv: line 3: job has no value"):
        load_challenge(write("pub.csv", PUBLIC), write("priv.csv", PRIVATE.replace("smith", " ")), one_hot=["job"])
    np.savez(tmp_path / "pub.npz", **HALF, features=np.zeros((2, 1)))
    with pytest.raises(
        InputError, match=r"pub\.npz: challenge\.one_hot names columns of \.csv files, but this is not one"
    ):
        load_challenge(tmp_path / "pub.npz", tmp_path / "priv.csv", one_hot=["job"])


def test_categories_of_very_many_values_are_refused_before_they_take_memory(write):
    rows = "".join(f"{number},0,1,{number}\n" for number in range(20_000))
    path = write("pub.csv", "id,label,membership,x\n" + rows)
    private = write("priv.csv", "id,label,x\nz,0,z\n")
    with pytest.raises(InputError, match=r"pub\.csv: its 20001 features would take 1600080000 bytes, allowed are \d+;"):
        load_challenge(path, private, one_hot=["x"])


def test_one_long_id_does_not_make_all_ids_long(write):
    rows = "".join(f"{number},0,1,1\n" for number in range(20_000))
    path = write("pub.csv", "id,label,membership,x\n" + "i" * 50_000 + ",0,1,1\n" + rows)
    with pytest.raises(InputError, match=r"pub\.csv: ids: one of 20001 has 50000 characters; use shorter ones"):
        load_split(path, known=True)


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        ("images", np.random.default_rng(0).integers(0, 256, (2, 4, 3, 3), np.uint8)),
        ("images", np.random.default_rng(0).random((2, 4, 3, 1))),
        ("features", np.array([[0, 1], [1, 1]], np.uint8)),
        ("features", np.array([[0, 1], [1, 1]], bool)),
        ("features", np.random.default_rng(0).normal(size=(2, 5))),
        ("features", np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)),
    ],
)
def test_an_npz_gives_the_numbers_that_it_holds(tmp_path: Path, name: str, samples: np.ndarray):
    np.savez(tmp_path / "pub.npz", **HALF, **{name: samples})
    pool = load_split(tmp_path / "pub.npz", known=True)
    assert pool.images is not None
    assert pool.images.dtype == samples.dtype
    np.testing.assert_array_equal(pool.images, samples)
    assert (pool.ids.tolist(), pool.labels.tolist(), pool.membership.tolist()) == (["a", "b"], [0, 1], [1, 0])


@pytest.mark.parametrize(
    ("samples", "dtype"), [([[1, -2], [2**24, 0]], np.float32), ([[1, 2], [2**24 + 1, 0]], np.float64)]
)
def test_integers_become_floats_that_hold_them(tmp_path: Path, samples: list, dtype: type):
    np.savez(tmp_path / "pub.npz", **HALF, features=np.array(samples))
    found = load_split(tmp_path / "pub.npz", known=True).images
    assert found is not None
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, samples)


def test_tokens_are_ids(tmp_path: Path):
    np.savez(tmp_path / "pub.npz", **HALF, tokens=np.array([[1, 2**30], [0, 5]]))
    found = load_split(tmp_path / "pub.npz", known=True).images
    assert found is not None
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, [[1, 2**30], [0, 5]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"holds no samples, expected one of images, features, tokens"),
        ({"features": np.zeros((2, 1)), "images": np.zeros((2, 4, 4, 1))}, r"holds images and features, expected one"),
        (
            {"images": np.zeros((2, 3, 4, 4))},
            r"images have shape \(2, 3, 4, 4\), expected \[sample, height,",
        ),
        ({"images": np.zeros((0, 4, 4, 1))}, r"images: there are none"),
        (
            {"images": np.zeros((2, 4, 4))},
            r"images have shape \(2, 4, 4\), .*; write grey ones as images\[\.\.\., None\]",
        ),
        ({"images": np.zeros(())}, r"images have shape \(\), expected \[sample, height,"),
        ({"images": np.full((2, 4, 4, 1), 1.5)}, r"images\[0\] has a pixel of 1\.5, allowed are 0 to 1"),
        ({"images": np.zeros((2, 4, 4, 1), np.int64)}, r"images are int64, allowed are uint8, float32, float64"),
        ({"features": np.zeros(2)}, r"features have shape \(2,\), expected \[sample, feature\]"),
        ({"features": np.array([["a"], ["b"]])}, r"features are <U1, expected numbers"),
        (
            {"features": np.array([[1, np.nan], [2, 3]])},
            r"features: 1 of 2 columns lack values, first column 1 \(nan in",
        ),
        ({"tokens": np.zeros((2, 3))}, r"tokens are float64, expected integers"),
        ({"tokens": np.array([[-1], [2]])}, r"tokens hold -1, allowed are integers from 0"),
        ({"features": np.zeros((3, 1))}, r"lengths differ: features 3, ids 2, labels 2, membership 2"),
        ({"features": np.zeros((2, 1)), "labels": np.zeros((2, 1))}, r"labels has shape \(2, 1\), expected \[sample\]"),
        ({"features": np.zeros((2, 1)), "labels": np.array(["x", "y"])}, r"labels\[0\] is 'x', allowed is an integer"),
        (
            {"features": np.zeros((2, 1)), "membership": np.array([1, 2])},
            r"membership\[1\] is 2, allowed is 1 \(member",
        ),
        ({"features": np.zeros((2, 1)), "ids": np.array(["a", "a"])}, r"ids\[1\] is 'a', as ids\[0\] is"),
    ],
)
def test_an_npz_that_is_refused(tmp_path: Path, changes: dict, message: str):
    np.savez(tmp_path / "pub.npz", **HALF | changes)
    with pytest.raises(InputError, match=r"pub\.npz: " + message):
        load_split(tmp_path / "pub.npz", known=True)


def test_an_npz_without_membership_is_private_only(tmp_path: Path):
    np.savez(tmp_path / "priv.npz", features=np.zeros((2, 1)), ids=HALF["ids"], labels=HALF["labels"])
    assert load_split(tmp_path / "priv.npz", known=False).membership.tolist() == [-1, -1]
    with pytest.raises(InputError, match=r"priv\.npz: lacks membership; it holds features, ids, labels"):
        load_split(tmp_path / "priv.npz", known=True)


def test_labels_beyond_the_target_s_classes_are_refused(write):
    with pytest.raises(InputError, match=r"pub\.csv: label in line 4 is 2, allowed is an integer from 0 to 1"):
        load_split(write("pub.csv", without(PUBLIC, "job")), known=True, num_classes=2)


def test_files_of_different_kinds_do_not_go_together(write, tmp_path: Path):
    np.savez(tmp_path / "pub.npz", **HALF, images=np.zeros((2, 4, 4, 1)))
    with pytest.raises(InputError, match=r"priv\.csv: holds rows of features, but .*pub\.npz images"):
        load_challenge(tmp_path / "pub.npz", write("priv.csv", without(PRIVATE, "job")))
    np.savez(tmp_path / "pub.npz", **HALF, features=np.zeros((2, 3)))
    with pytest.raises(InputError, match=r"priv\.csv: its rows of features have shape \(2,\), those of .* \(3,\) \[f"):
        load_challenge(tmp_path / "pub.npz", write("priv.csv", without(PRIVATE, "job")))


def make_pool() -> Pool:
    features = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    membership = np.array([0, 1, 1, -1, -1, -1], np.int8)
    return Pool(features, np.arange(6, dtype=np.int32) % 2, np.array([f"s,{i}" for i in range(6)]), membership)


def test_written_rows_come_back_as_they_were(tmp_path: Path):
    pool = make_pool()
    save_challenge(pool, tmp_path / "pub.npz", tmp_path / "priv.npz")
    save_table(pool.take(pool.public), tmp_path / "pub.csv", ["a", "b", "c"])
    save_table(pool.take(~pool.public), tmp_path / "priv.csv", ["a", "b", "c"])
    for kind in ("npz", "csv"):
        again = load_challenge(tmp_path / f"pub.{kind}", tmp_path / f"priv.{kind}")
        for name in ("images", "labels", "ids", "membership"):
            assert getattr(again, name).dtype == getattr(pool, name).dtype
            np.testing.assert_array_equal(getattr(again, name), getattr(pool, name))
    with pytest.raises(InputError, match=r"pub\.pt: rows are written as \.npz, not as \.pt"):
        save_challenge(pool, tmp_path / "pub.pt", tmp_path / "priv.pt")


def test_features_are_scaled_by_the_pool_where_asked_and_it_is_said(tmp_path: Path, records: Records):
    pool = make_pool()
    assert pool.images is not None
    pool.images[:, 1] = 7
    save_challenge(pool, tmp_path / "pub.npz", tmp_path / "priv.npz")
    files = {"public": tmp_path / "pub.npz", "private": tmp_path / "priv.npz"}
    scaled = open_pool(ChallengeConfig(**files, scaling="pool")).images
    assert scaled is not None
    expected = np.stack([(c - c.mean()) / (c.std() or 1) for c in pool.images.T.astype(np.float64)], 1)
    np.testing.assert_allclose(scaled, expected, atol=1e-6)
    assert telling(records, "3 features scaled", "6 samples", "1 are constant") == ["INFO"]
    given = open_pool(ChallengeConfig(**files)).images
    np.testing.assert_array_equal(given, pool.images)  # type: ignore[arg-type]


def test_images_are_not_scaled_by_the_pool(tmp_path: Path):
    for name in ("pub", "priv"):
        ids = np.array([f"{name}{i}" for i in range(2)])
        np.savez(tmp_path / f"{name}.npz", **HALF | {"ids": ids}, images=np.zeros((2, 4, 4, 1)))
    challenge = ChallengeConfig(public=tmp_path / "pub.npz", private=tmp_path / "priv.npz", scaling="pool")
    with pytest.raises(
        InputError, match=r"challenge\.scaling: pool scales rows of features, but the pool contains images"
    ):
        open_pool(challenge)


def test_ids_are_read_whatever_the_features_are(write):
    assert load_ids(write("priv.csv", PRIVATE)).tolist() == ["d", "e"]
    with pytest.raises(InputError, match=r"priv\.csv: id in line 3 is 'd', as id in line 2 is; expected each id once"):
        load_ids(write("priv.csv", PRIVATE.replace("e,", "d,")))
