from pathlib import Path

import numpy as np
import pytest

from bridge import demo
from bridge.demo import make_demo
from bridge.open import open_pool
from bridge.trainer import train_target
from jaxmia.config import ChallengeConfig
from jaxmia.errors import InputError
from jaxmia.leaderboard.submission import read_truth

FILES = ("pub.pt", "priv.pt", "model.pt", "truth.csv")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    """Trains the target for one epoch."""

    def train_briefly(samples, labels, network, recipe, *rest, **options):
        return train_target(samples, labels, network, recipe.model_copy(update={"epochs": 1}), *rest, **options)

    monkeypatch.setattr(demo, "train_target", train_briefly)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_users_own_is_not_overwritten(tmp_path: Path, name: str):
    (tmp_path / name).write_text("the user's")
    with pytest.raises(InputError, match=rf"{name}: was not written by `jaxmia demo`, which would overwrite it"):
        make_demo(tmp_path)
    assert contents(tmp_path) == {name: b"the user's"}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_its_own_files_are_taken_as_they_are_and_missing_ones_made_again(tmp_path: Path):
    make_demo(tmp_path)
    made = contents(tmp_path)
    assert tuple(made) == FILES
    (tmp_path / "pub.pt").write_text("as it was")
    make_demo(tmp_path)
    assert contents(tmp_path) == made | {"pub.pt": b"as it was"}
    (tmp_path / "model.pt").unlink()
    make_demo(tmp_path)
    assert contents(tmp_path) == made


def test_a_demonstration_of_another_kind_is_not_overwritten(tmp_path: Path):
    make_demo(tmp_path)
    with pytest.raises(InputError, match=r"model\.pt: belongs to a demo of another --kind; use"):
        make_demo(tmp_path, "table")


def test_the_table_s_pool_tells_nothing_but_by_its_samples(tmp_path: Path):
    make_demo(tmp_path, "table")
    pool = open_pool(ChallengeConfig(public=tmp_path / "pub.csv", private=tmp_path / "priv.csv"))
    ids, truth = read_truth(tmp_path / "truth.csv")
    assert pool.images is not None
    assert pool.images.shape == (569, 30)
    np.testing.assert_array_equal(pool.ids[~pool.public], ids)
    members = np.concatenate([pool.membership[pool.public], truth])
    assert [members[: -len(ids)].sum(), truth.sum()] == [142, 143]
    assert abs(np.corrcoef(members[:-1], members[1:])[0, 1]) < 0.2, "the order of the rows does not tell members"
