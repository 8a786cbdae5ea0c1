import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxmia.attacks import Margin
from jaxmia.data.pool import Pool
from jaxmia.files import load_npz
from jaxmia.runs.matrices import read_matrices
from jaxmia.runs.store import ScoreStore
from tests.conftest import make_chunk
from tests.fuzz.conftest import fuzzing, read_or_refuse
from tests.fuzz.mutation import mutated

SAMPLES = 6
FILES = ("pool.npz", "target.npz", "shadows/00000-00003.npz")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A small run directory, complete."""
    membership = np.array([1, 0, 1, 0, -1, -1], np.int8)
    Pool(None, np.arange(SAMPLES) % 2, np.array([f"i{i}" for i in range(SAMPLES)]), membership).save(
        tmp_path / "pool.npz"
    )
    np.savez(tmp_path / "target.npz", phi=np.zeros((2, SAMPLES), np.float32))
    ScoreStore(tmp_path / "shadows").write(make_chunk([0, 1, 2, 3], samples=SAMPLES))
    return tmp_path


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_run_is_read_or_refused(run: Path, name: str):
    valid = (run / name).read_bytes()

    @fuzzing
    @given(st.one_of(mutated(valid), st.binary(max_size=300)))
    def check(content: bytes) -> None:
        (run / name).write_bytes(content)
        read_or_refuse(lambda: read_matrices(run), run)

    assert read_or_refuse(lambda: read_matrices(run), run)
    check()


ARRAYS = hnp.arrays(
    st.one_of(hnp.scalar_dtypes(), hnp.unicode_string_dtypes(max_len=4), hnp.byte_string_dtypes(max_len=4)),
    st.one_of(
        st.sampled_from([(SAMPLES,), (4, SAMPLES), (2, SAMPLES), (4, 2, SAMPLES), (4,), ()]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.usefixtures("unchecked_arrays")
def test_arrays_of_any_type_and_shape_are_scored_or_refused(run: Path, name: str):
    valid = load_npz(run / name)

    @fuzzing
    @given(st.dictionaries(st.sampled_from(sorted(valid)), ARRAYS, min_size=1), st.sets(st.sampled_from(sorted(valid))))
    def check(changed: dict[str, np.ndarray], dropped: set[str]) -> None:
        kept = {field: array for field, array in (valid | changed).items() if field not in dropped - changed.keys()}
        (run / name).write_bytes(npz(kept))

        def score() -> None:
            found = Margin()(read_matrices(run).evidence)
            assert found.shape == (SAMPLES,)
            assert np.isfinite(found).all()

        read_or_refuse(score, run)

    check()


class Touch:
    """Pickled, it is an order to touch a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_in_a_run_is_refused_and_not_run(run: Path, name: str):
    valid, canary = load_npz(run / name), run / "canary"
    for field in valid:
        hostile = np.array([Touch(canary)] * SAMPLES, object)
        (run / name).write_bytes(npz(valid | {field: hostile}))
        assert not read_or_refuse(lambda: read_matrices(run), run)
        assert not canary.exists()
        with zipfile.ZipFile(run / name) as archive:
            np.lib.format.read_array(io.BytesIO(archive.read(f"{field}.npy")), allow_pickle=True)
        assert canary.exists()  # it would have been run where pickles are allowed
        canary.unlink()
