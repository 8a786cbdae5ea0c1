from pathlib import Path

import numpy as np
import pytest

from bridge import demo
from bridge.demo import make_demo
from jaxmia.errors import InputError

FILES = ("pub.pt", "priv.pt", "model.pt", "truth.csv")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    """Writes the files without training a target."""

    def write(out: Path, paths: dict[str, Path], chosen: object) -> None:
        for path in (*paths.values(), out / "truth.csv"):
            path.write_text("the demonstration's")

    monkeypatch.setattr(demo, "_write", write)


def contents(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in FILES if (folder / name).exists()]


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_users_own_is_not_overwritten(tmp_path: Path, name: str):
    (tmp_path / name).write_text("the user's")
    with pytest.raises(InputError, match=rf"{name}: was not made by `jaxmia demo`, which would overwrite it"):
        make_demo(tmp_path)
    assert contents(tmp_path) == ["the user's"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_its_own_files_are_taken_as_they_are_and_missing_ones_made_again(tmp_path: Path):
    make_demo(tmp_path)
    assert contents(tmp_path) == ["the demonstration's"] * 4
    (tmp_path / "pub.pt").write_text("as it was")
    make_demo(tmp_path)
    assert (tmp_path / "pub.pt").read_text() == "as it was"
    (tmp_path / "model.pt").unlink()
    make_demo(tmp_path)
    assert contents(tmp_path) == ["the demonstration's"] * 4


def test_a_demonstration_of_another_kind_is_not_overwritten(tmp_path: Path):
    make_demo(tmp_path)
    with pytest.raises(InputError, match=r"model\.pt: belongs to a demonstration of another --kind; name"):
        make_demo(tmp_path, "table")


def test_the_table_s_pool_tells_nothing_but_by_its_samples():
    pool, members, columns = demo._tumours()
    assert pool.images is not None
    assert pool.images.shape == (569, 30)
    assert len(columns) == 30
    assert [members[pool.public].sum(), members[~pool.public].sum()] == [142, 143]
    assert np.array_equal(pool.membership[pool.public], members[pool.public])
    assert abs(np.corrcoef(members[:-1], members[1:])[0, 1]) < 0.2, "the order of the rows does not tell members"
