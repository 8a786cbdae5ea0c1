from pathlib import Path

import numpy as np
import pytest

from benchmarks import unlike_shadows
from benchmarks.study import sets
from benchmarks.study.sets import CHUNK, KNOWN, NEAR, OWN, REGIMES
from jaxmia.files import load_npz, save_npz
from tests.benchmarks.test_known import invent


@pytest.fixture(autouse=True)
def one_chunk_of_one_regime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlike_shadows, "SHADOWS", CHUNK)
    monkeypatch.setattr(unlike_shadows, "shadows", lambda regime, known: sets.shadows(regime, known, CHUNK))
    monkeypatch.setattr(unlike_shadows, "COUNTS", (8,))
    monkeypatch.setattr(unlike_shadows, "REGIMES", REGIMES[2:3])


def test_targets_are_judged_by_both_distances(tmp_path: Path):
    """Margins of independent noise around one level: every target is of the shadows' recipe."""
    invent(tmp_path, REGIMES[2], (KNOWN,))
    own, near = unlike_shadows.judge_regime(tmp_path, REGIMES[2], 8)
    for method in unlike_shadows.METHODS:
        assert (len(own[method]), len(near[method])) == (2 * (8 + OWN), 2 * NEAR)
        chances, unlike = zip(*own[method], strict=True)
        assert np.mean(chances) > 0.2
        assert not any(unlike)
    assert unlike_shadows.page(tmp_path).count("| smoothed |") == 3


def test_shadows_with_other_fixed_memberships_are_refused(tmp_path: Path):
    invent(tmp_path, REGIMES[2], (KNOWN,))
    (part,) = sets.shadows(REGIMES[2], KNOWN, CHUNK)
    stored = load_npz(part.path(tmp_path))
    members = np.flatnonzero(stored["membership"] == 1)
    stored["mask"][:, members] = np.roll(stored["mask"][:, members], 1, axis=1)  # others are fixed
    save_npz(part.path(tmp_path), stored)
    with pytest.raises(SystemExit, match=f"^{tmp_path}: smoothed: the memberships fixed .* are not those that would"):
        unlike_shadows.page(tmp_path)
