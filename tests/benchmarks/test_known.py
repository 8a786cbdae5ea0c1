import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.study import known, sets
from benchmarks.study.known import cells, measured, report
from benchmarks.study.known_tables import Found
from benchmarks.study.sets import (
    CHUNK,
    CURVE,
    KNOWN,
    NEAR,
    OWN,
    REGIMES,
    Maker,
    Part,
    Regime,
    parts,
    read,
    shadows,
    targets,
)
from benchmarks.study.strength import figure_of
from benchmarks.study.variants import BOTH, ONE, RANDOM, VARIANTS, VIEWS, situation
from jaxmia.data.masks import DRAWN, Masks
from jaxmia.evaluation.metrics import tpr_at_fpr
from jaxmia.files import save_npz

SAMPLES = 600


def invent(out: Path, regime: Regime, shares: tuple[float, ...]) -> None:
    """Margins in which members stand out, as training would have kept them; the first half of the samples is public."""
    many = shadows(regime, 0, 2 * CHUNK)[1:]
    invent_parts(out, [targets(regime), *(shadows(regime, share, CHUNK)[0] for share in shares), *many])


def invent_parts(out: Path, parts: Sequence[Part]) -> None:
    """Margins of parts, which depend on the numbers of their models alone."""
    membership = np.where(np.arange(SAMPLES) < SAMPLES // 2, np.arange(SAMPLES) % 2, DRAWN).astype(np.int8)
    for part in parts:
        rng = np.random.default_rng(part.models[0])
        mask = Masks.knowing(part.regime.seed, membership, part.known)(part.models)
        phi = rng.normal(size=(len(mask), len(part.regime.views), SAMPLES)).astype(np.float32) + mask[:, None]
        arrays = {"phi": phi, "mask": mask, "accuracy": np.full((len(mask), 2), 0.5), "seconds": np.ones(2)}
        save_npz(part.path(out), {**arrays, "labels": np.zeros(SAMPLES, np.int32), "membership": membership})


def test_every_part_is_trained_once_and_the_first_ones_serve_every_regime():
    order = [part.path(Path()) for part in parts()]
    assert len(order) == len(set(order)) == 4 * (1 + 8 + 4 + len(CURVE))
    first = order[: 4 * 3]
    for regime in REGIMES:
        assert {part.path(Path()) for part in (targets(regime), shadows(regime, 0)[0])} <= set(first)


def test_targets_share_what_is_told_and_differ_in_what_is_not():
    membership = np.where(np.arange(SAMPLES) < SAMPLES // 2, np.arange(SAMPLES) % 2, DRAWN).astype(np.int8)
    part = targets(REGIMES[0])
    masks = Masks.knowing(REGIMES[0].seed, membership, part.known)(part.models)
    told = membership != DRAWN
    assert (masks[:, told] == (membership[told] == 1)).all()
    assert len({mask[~told].tobytes() for mask in masks}) == OWN + NEAR
    assert [recipe == REGIMES[0].recipe for recipe in part.recipes] == [True] * OWN + [False] * NEAR


def test_a_situation_holds_free_samples_alone(tmp_path: Path):
    regime = REGIMES[2]
    invent(tmp_path, regime, (KNOWN,))
    found = [read(tmp_path, wanted) for wanted in ([shadows(regime, KNOWN, CHUNK)[0]], [targets(regime)])]
    one = situation(found[0], found[1], regime.seed, KNOWN, 8, [0, 1])
    assert one.evidence.shadows.shape[:2] == (8, 2)
    assert one.pool.public.sum() <= SAMPLES // 2 - round(KNOWN * SAMPLES / 4) * 2
    assert one.evidence.mask.any(0).all()
    assert not one.evidence.mask.all(0).any()
    private = found[1]["membership"] == DRAWN
    assert (~one.pool.public).sum() <= private.sum()
    with pytest.raises(AssertionError):
        situation(found[0], found[1], regime.seed, 0.5, 8, [0, 1])


def test_cells_are_measured_once_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(known, "REGIMES", REGIMES[2:3])
    monkeypatch.setattr("benchmarks.study.known_tables.REGIMES", REGIMES[2:3])
    monkeypatch.setattr(known, "COUNTS", (8, 16))
    monkeypatch.setattr(known, "SHADOWS", 16)
    monkeypatch.setattr(known, "RANDOM_SHADOWS", 32)
    invent(tmp_path, REGIMES[2], (0.0, KNOWN, *CURVE))
    report(tmp_path, tmp_path / "page")
    result = json.loads((tmp_path / "page.json").read_text())
    assert len(result["cells"]) == len(list(cells(REGIMES[2])))
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "page.md").read_text()
    assert "## With 16 shadows" in text
    assert "| 0.25 |" in text
    assert "| TPR at 5 % FPR | 8 shadows | 16 shadows | 32 shadows |" in text
    assert "Both with 16 shadows against the best published with 32" in text
    assert "nan" not in text

    monkeypatch.setattr(known, "measure", lambda one: pytest.fail("measured again"))
    cell = measured(tmp_path, REGIMES[2], BOTH, 16)
    assert cell
    assert len(cell["auto"]["auc"]) == OWN + NEAR

    found = Found(result["cells"])
    best = found.published(ONE, RANDOM, VIEWS)(REGIMES[2], 16, "tpr@0.05")
    means = [np.mean(figures["tpr@0.05"]) for _, figures in found.attacks(REGIMES[2], 16, (ONE, RANDOM, VIEWS))]
    assert best.mean() == pytest.approx(max(means))


def test_a_figure_is_that_of_the_metrics(rng: np.random.Generator):
    members = np.arange(400) < 200
    scores = rng.normal(size=400) + members
    assert figure_of(scores, members, "tpr@0.01") == tpr_at_fpr(scores, members, 0.01)


def test_views_of_a_variant_follow_the_augmentation():
    assert [[len(variant.columns(regime)) for regime in REGIMES] for variant in (*VARIANTS, ONE)] == [
        [2, 2, 2, 2],
        [2, 2, 2, 2],
        [18, 18, 2, 1],
        [18, 18, 2, 1],
        [1, 1, 1, 1],
    ]


@pytest.mark.slow
def test_training_keeps_margins_of_every_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 14, 14, 3)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(80) % 3)
    monkeypatch.setattr(sets, "HALF", 40)
    monkeypatch.setattr(sets, "STORED", 14)
    quick = replace(REGIMES[2], recipe=REGIMES[2].recipe.model_copy(update={"epochs": 1}))
    part = shadows(quick, 0.5, CHUNK)[0]
    maker = Maker(tmp_path / "images.npz", tmp_path, (quick,))
    maker.train(part)
    found = read(tmp_path, [part])
    assert found["phi"].shape == (CHUNK, 2, 80)
    assert np.isfinite(found["phi"]).all()
    mask = found["mask"][:, found["membership"] != DRAWN]
    assert (mask == mask[0]).all(0).sum() == 20
