"""Pools in `.csv` and `.npz` files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.challenge import find_categories, load_ids, load_split
from tests.fuzz.conftest import fuzzing, read_or_refuse
from tests.fuzz.mutation import mutated
from tests.fuzz.test_csv import CELLS, TABLES, TOKENS
from tests.fuzz.test_npz import ARRAYS, SAMPLES, npz

TABLE = b"id,label,membership,age,job\na,0,1,30,nurse\nb,1,0,1e3,smith\nc,2,1,-0.5,nurse\n"
ARRAYS_OF_A_POOL = {
    "ids": np.array([f"i{i}" for i in range(SAMPLES)]),
    "labels": np.arange(SAMPLES) % 2,
    "membership": np.arange(SAMPLES) % 2,
    "features": np.zeros((SAMPLES, 2), np.float32),
}
ROWS = st.lists(st.lists(CELLS, min_size=5, max_size=5).map(",".join), max_size=6).map(
    lambda rows: "\n".join(["id,label,membership,age,job", *rows]).encode("utf-8", "surrogatepass")
)


def check_pool(path: Path, **options) -> None:
    pool = load_split(path, known=True, **options)
    samples = pool.images_to("query")
    assert len(samples) == len(pool.labels) == len(set(pool.ids.tolist())) > 0
    assert np.isfinite(samples).all()
    assert np.isin(pool.membership, (0, 1)).all()
    assert pool.labels.min() >= 0


@pytest.mark.parametrize("one_hot", [(), ("job",)], ids=["numbers", "one-hot"])
def test_any_table_is_a_pool_or_refused(folder: Path, one_hot: tuple[str, ...]):
    path = folder / "pool.csv"

    def read() -> None:
        check_pool(path, categories=find_categories([path], one_hot, 2**20))

    @fuzzing
    @given(st.one_of(mutated(TABLE, TOKENS), TABLES, ROWS, st.binary(max_size=100)))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        if read_or_refuse(read, path):
            load_ids(path)

    path.write_bytes(TABLE)
    assert read_or_refuse(read, path) == bool(one_hot)
    check()


def test_any_arrays_are_a_pool_or_refused(folder: Path):
    path = folder / "pool.npz"

    @fuzzing
    @given(
        st.dictionaries(st.sampled_from([*ARRAYS_OF_A_POOL, "images", "tokens"]), ARRAYS, min_size=1),
        st.sets(st.sampled_from(sorted(ARRAYS_OF_A_POOL))),
    )
    def check(changed: dict[str, np.ndarray], dropped: set[str]) -> None:
        arrays = {name: array for name, array in ARRAYS_OF_A_POOL.items() if name not in dropped}
        path.write_bytes(npz(arrays | changed))
        read_or_refuse(lambda: check_pool(path), path)

    path.write_bytes(npz(ARRAYS_OF_A_POOL))
    assert read_or_refuse(lambda: check_pool(path), path)
    check()
