from pathlib import Path

import pytest

from benchmarks import precision
from benchmarks.precision import PRECISIONS, SHADOWS, page, regime_of
from benchmarks.study.sets import KNOWN, shadows, targets
from tests.benchmarks.test_known import invent_parts


@pytest.mark.slow
def test_a_page_compares_equal_shadows_without_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    case = precision._CASES[3]
    monkeypatch.setattr(precision, "_CASES", (case,))
    wide, narrow = (regime_of(*case, kind) for kind in PRECISIONS)
    invent_parts(tmp_path, [targets(wide), *shadows(wide, KNOWN, SHADOWS), *shadows(narrow, KNOWN, SHADOWS)])
    text = page(tmp_path)
    assert text.count("+0.0 (+0.0 to +0.0)") == 2 * 3
    assert "| overfitted | 1.0 | 1.0 |" in text
