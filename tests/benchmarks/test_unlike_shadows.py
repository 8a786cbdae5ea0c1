from pathlib import Path

import numpy as np
import pytest

from benchmarks import unlike_shadows
from benchmarks.study import sets
from benchmarks.study.sets import CHUNK, KNOWN, NEAR, OWN, REGIMES
from tests.benchmarks.test_known import invent


def test_targets_are_judged_by_both_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Margins of independent noise around one level: every target is of the shadows' recipe."""
    monkeypatch.setattr(unlike_shadows, "SHADOWS", CHUNK)
    monkeypatch.setattr(unlike_shadows, "shadows", lambda regime, known: sets.shadows(regime, known, CHUNK))
    monkeypatch.setattr(unlike_shadows, "COUNTS", (8,))
    monkeypatch.setattr(unlike_shadows, "REGIMES", REGIMES[2:3])
    invent(tmp_path, REGIMES[2], (KNOWN,))
    own, near = unlike_shadows.judge_regime(tmp_path, REGIMES[2], 8)
    for method in unlike_shadows.METHODS:
        assert (len(own[method]), len(near[method])) == (2 * (8 + OWN), 2 * NEAR)
        chances, unlike = zip(*own[method], strict=True)
        assert np.mean(chances) > 0.2
        assert not any(unlike)
    assert unlike_shadows.page(tmp_path).count("| smoothed |") == 3
