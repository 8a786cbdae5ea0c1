import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jaxmia.attacks import Evidence, LiraOnline, Margin, sample_fits
from jaxmia.cli.commands.run import show_metrics
from jaxmia.cli.display import expectation_lines, vulnerable_table
from jaxmia.config import AttackConfig
from jaxmia.data.masks import Masks
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.errors import InputError
from jaxmia.evaluation.epsilon import epsilon_bound
from jaxmia.evaluation.intervals import Estimate
from jaxmia.evaluation.metrics import tpr_at_fpr
from jaxmia.evaluation.selection import select
from jaxmia.pipeline.scoring import score
from jaxmia.pipeline.summary import (
    MAX_VULNERABLE,
    figures_of_classes,
    most_vulnerable,
    private_estimate,
    write_samples,
)
from jaxmia.runs.matrices import read_matrices
from jaxmia.runs.metrics import RunMetrics
from jaxmia.runs.store import Chunk, ScoreStore


def pool_of(membership: list[int], ids: list[str] | None = None, labels: list[int] | None = None) -> Pool:
    count = len(membership)
    return Pool(
        None,
        np.array(labels if labels else [0] * count, np.int32),
        np.array(ids or [f"id{i}" for i in range(count)]),
        np.array(membership, np.int8),
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_row_says_what_naive_loops_over_the_shadows_say(planted: tuple[Path, np.ndarray]):
    out, _ = planted
    score(out, AttackConfig(name="lira-online-global"))
    matrices = read_matrices(out)
    phi, mask, target = matrices.shadows.phi, matrices.shadows.mask, matrices.evidence.target
    scores = np.load(out / "scores.npz")
    rows = rows_of(out / "samples.csv")
    assert len(rows) == len(matrices.pool)
    for sample, row in enumerate(rows):
        known = matrices.pool.membership[sample]
        assert row["id"] == matrices.pool.ids[sample]
        assert row["label"] == str(matrices.pool.labels[sample])
        assert row["membership"] == ("" if known == UNKNOWN else str(known))
        assert float(row["target"]) == pytest.approx(target[0, sample], rel=1e-6)
        assert float(row["score"]) == pytest.approx(scores["lira-online-global"][sample], rel=1e-6)
        for name in scores:
            assert float(row[name]) == pytest.approx(scores[name][sample], rel=1e-6)
        means, variances = [], []
        for side, chosen in (("in", mask[:, sample]), ("out", ~mask[:, sample])):
            margins = [float(phi[model, 0, sample]) for model in range(len(phi)) if chosen[model]]
            mean = sum(margins) / len(margins)
            variance = sum((margin - mean) ** 2 for margin in margins) / (len(margins) - 1)
            means.append(mean)
            variances.append(variance)
            assert int(row[f"{side}_count"]) == len(margins)
            assert float(row[f"{side}_mean"]) == pytest.approx(mean, rel=1e-5)
            assert float(row[f"{side}_std"]) == pytest.approx(variance**0.5, rel=1e-5)
        gap = (means[0] - means[1]) / (sum(variances) / 2) ** 0.5
        assert float(row["gap"]) == pytest.approx(gap, rel=1e-4, abs=1e-6)


def test_what_does_not_exist_is_empty_and_what_needs_quotes_has_them(tmp_path: Path):
    """Sample 1 has one IN model, which has no spread, and no OUT model."""
    phi = np.array([[[1.0, 2.0]], [[3.0, 4.0]]])
    mask = np.array([[True, True], [True, True]])
    fits = sample_fits(Evidence(np.zeros((1, 2)), phi[:1], mask[:1], np.zeros(2, int)))
    write_samples(tmp_path / "samples.csv", pool_of([1, UNKNOWN], ['a,"b"', "c"]), np.array([np.inf, 0.5]), fits, {})
    first, second = rows_of(tmp_path / "samples.csv")
    assert (first["id"], first["score"], second["membership"]) == ('a,"b"', "inf", "")
    assert (second["in_count"], second["in_mean"], second["in_std"]) == ("1", "2", "")
    assert (second["out_count"], second["out_mean"], second["out_std"], second["gap"]) == ("0", "", "", "")


def test_an_id_that_is_no_text_is_refused_and_nothing_is_written(tmp_path: Path):
    with pytest.raises(InputError, match=r"samples\.csv: not written: its text contains '\\ud800', which UTF-8"):
        write_samples(tmp_path / "samples.csv", pool_of([1], ["\ud800"]), np.zeros(1), {}, {})
    assert not list(tmp_path.iterdir())


def test_the_most_vulnerable_samples_are_those_of_the_widest_gaps_whatever_their_score():
    pool = pool_of([1, 0, UNKNOWN, 1, 0, UNKNOWN, 1])
    scores = np.array([3.0, -1.0, 9.0, 3.0, 0.0, np.inf, 2.0])
    gaps = np.array([1.5, 4.0, np.nan, 3.0, -1.0, 2.0, np.nan])
    fits = {"target": np.arange(7.0), "in_std": np.full(7, np.nan), "gap": gaps}
    found = most_vulnerable(pool, scores, fits)
    assert [sample.id for sample in found] == ["id1", "id3", "id5", "id0", "id4"]
    assert [sample.membership for sample in found] == [0, 1, None, 1, 0]
    assert [sample.score for sample in found] == [-1.0, 3.0, None, 3.0, 0.0]
    assert {sample.in_std for sample in found} == {None}
    fits["gap"][3:] = np.nan
    assert [sample.id for sample in most_vulnerable(pool, scores, fits)] == ["id1", "id0"]


def test_the_figures_of_a_class_are_those_of_its_public_samples_alone(rng: np.random.Generator):
    labels = np.repeat([0, 2, 5], 100)
    membership = np.tile([1, 0, UNKNOWN, 1], 75)
    membership[200:] = 1
    scores = rng.normal(size=300)
    found = figures_of_classes(pool_of(membership.tolist(), labels=labels.tolist()), scores, 0.2)
    assert list(found) == ["0", "2", "5"]
    assert found["5"] is None
    of_two = (labels == 2) & (membership != UNKNOWN)
    assert found["2"] is not None
    assert found["2"].tpr[0].fpr == 0.2
    assert found["2"].tpr[0].fixed.value == tpr_at_fpr(scores[of_two], membership[of_two] == 1, 0.2)


def test_the_private_estimate_holds_for_fresh_targets(rng: np.random.Generator):
    """Of forty targets that are drawn as the shadows are, the 95 % interval holds all but a few."""
    models, samples = 30, 300
    location = rng.normal(0, 2, samples)

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
        mask = rng.random((count, samples)) < 0.5
        return (location + rng.normal(size=(count, samples)) + 1.2 * mask)[:, None], mask

    phi, mask = drawn(models)
    evidence = Evidence(phi[0], phi, mask, np.zeros(samples, int))
    attack = LiraOnline("global")
    selection = select(evidence, [attack], 0.1)
    private = np.arange(samples) >= 150
    pool = pool_of(np.where(private, UNKNOWN, 1).tolist())
    estimate = private_estimate(pool, selection)
    assert estimate is not None
    assert (estimate.samples, estimate.fpr, estimate.value) == (150, 0.1, selection.expected)
    targets, members = drawn(40)
    reached = [
        tpr_at_fpr(attack(evidence.with_target(own))[private], who[private], 0.1)
        for own, who in zip(targets, members, strict=True)
    ]
    inside = [estimate.low <= value <= estimate.high for value in reached]
    assert np.mean(inside) >= 0.85
    assert estimate.high - estimate.low < 5 * np.std(reached)


def test_there_is_no_private_estimate_without_private_samples(planted: tuple[Path, np.ndarray]):
    out, _ = planted
    pool = Pool.load(out / "pool.npz")
    selection = select(read_matrices(out).evidence, [Margin()], 0.05)
    assert private_estimate(pool, selection) is not None
    assert private_estimate(pool_of([1, 0]), selection) is None


def test_a_run_records_all_of_it_and_shows_a_few_lines(planted: tuple[Path, np.ndarray]):
    out, _ = planted
    metrics = score(out, AttackConfig(targets=8))
    assert json.loads((out / "metrics.json").read_text(), parse_constant=pytest.fail) == metrics.to_dict()
    assert RunMetrics.read(out) == metrics
    assert metrics.private and metrics.private.samples == 200
    assert metrics.public_by_class and set(metrics.public_by_class) == {"0", "1", "2", "3"}
    assert len(metrics.vulnerable) == MAX_VULNERABLE
    assert vulnerable_table(metrics).row_count == MAX_VULNERABLE
    assert any(line.startswith("private samples: expected TPR ") for line in expectation_lines(metrics))


def test_what_to_expect_is_said_with_how_far_the_target_is_from_its_shadows(planted: tuple[Path, np.ndarray]):
    out, _ = planted
    near = score(out, AttackConfig(targets=8))
    assert expectation_lines(near)[0].endswith("if the target was trained as its shadows were")
    assert not any("unlike" in line for line in expectation_lines(near))
    np.savez(out / "target.npz", phi=np.load(out / "target.npz")["phi"] * 0.1)
    far = score(out, AttackConfig(targets=8))
    assert re.match(
        r"target unlike its shadows: its logit margins are \d+\.\d standard deviations from theirs, .*`jaxmia match`",
        expectation_lines(far)[1],
    )


def test_nothing_is_expected_at_a_rate_that_allows_no_false_alarm(planted: tuple[Path, np.ndarray]):
    """Of 200 private samples about 100 are non-members: 1 % of them is one."""
    out, _ = planted
    assert score(out, AttackConfig(targets=8, fpr=0.01)).private is not None
    metrics = score(out, AttackConfig(targets=8, fpr=0.009))
    assert metrics.private is None
    assert "private samples: no estimate: there are too few of them (200)" in expectation_lines(metrics)


def test_a_named_attack_is_expected_to_do_what_it_did_on_shadows_that_play_the_target(planted: tuple[Path, np.ndarray]):
    """Mean and Student's prediction interval over the pseudo-targets, by a naive loop."""
    out, _ = planted
    expected = score(out, AttackConfig(name="lira-online-global")).private
    evidence = read_matrices(out).evidence
    reached = [
        tpr_at_fpr(LiraOnline("global")(against), members, 0.05)
        for against, members in evidence.pseudo_targets(range(24))
    ]
    # half of the samples are private, so the chance in them is twice as large
    reach = stats.t.ppf(0.975, 23) * np.std(reached, ddof=1) * np.sqrt(2 + 1 / 24)
    assert expected and expected.targets == 24
    assert expected.value == pytest.approx(np.mean(reached))
    assert (expected.low, expected.high) == pytest.approx((max(0, expected.value - reach), expected.value + reach))


def test_nothing_is_promised_of_twenty_private_samples(planted: tuple[Path, np.ndarray]):
    """Ten non-members or so: 5 % of them is no false alarm."""
    out, members = planted
    pool = Pool.load(out / "pool.npz")
    membership = np.where(np.arange(400) < 380, members, UNKNOWN).astype(np.int8)
    Pool(None, pool.labels, pool.ids, membership).save(out / "pool.npz")
    for name in ("auto", "lira-online-global"):
        assert score(out, AttackConfig(name=name, targets=8)).private is None


def test_the_coin_is_that_of_all_public_samples_not_of_the_free_ones_alone(tmp_path: Path, rng: np.random.Generator):
    """There are too few free samples to tell a share of 65 % members from a half."""
    samples, models = 400, 16
    membership = np.where(np.arange(samples) < 200, np.arange(samples) < 130, UNKNOWN).astype(np.int8)
    masks = Masks.knowing(7, membership, 0.9)
    phi = rng.normal(size=(models + 1, 1, samples)).astype(np.float32)
    Pool(None, np.zeros(samples, int), np.arange(samples).astype(str), membership).save(tmp_path / "pool.npz")
    np.savez(tmp_path / "target.npz", phi=phi[-1])
    nothing = np.full(models, np.nan)
    ScoreStore(tmp_path / "shadows").write(
        Chunk(np.arange(models), masks(range(models)), phi[:-1], nothing, nothing, {}, {}, free=masks.free)
    )
    found = score(tmp_path, AttackConfig(name="calibrated"))
    assert found.fixed == 180
    earlier = (tmp_path / "metrics.json").read_text().replace('"fixed": 180', '"told": 180')
    (tmp_path / "metrics.json").write_text(earlier)
    assert RunMetrics.read(tmp_path) == found
    assert found.epsilon.lower is None
    assert "130 of 200 public samples are members" in str(found.epsilon.reason)


def test_epsilon_is_bounded_at_the_delta_and_with_the_confidence_of_the_configuration(
    planted: tuple[Path, np.ndarray],
):
    out, members = planted
    metrics = score(out, AttackConfig(name="calibrated", epsilon_delta=1e-6, epsilon_confidence=0.8))
    scores = np.load(out / "scores.npz")["calibrated"][:200]
    assert metrics.epsilon == epsilon_bound(scores, members[:200].astype(int), 1e-6, 0.8)
    assert metrics.epsilon.lower > score(out, AttackConfig(name="calibrated")).epsilon.lower
    assert re.match(r"epsilon: at least \d\.\d{3} at delta 1e-06, with 80 % conf", expectation_lines(metrics)[-1])


def test_why_there_is_no_bound_on_epsilon_is_said_and_so_is_its_condition(planted: tuple[Path, np.ndarray]):
    out, _ = planted
    assert re.match(
        r"epsilon: at least \d\.\d{3} at delta 1e-05, with 95 % confidence, if a fair coin decided for each scored",
        expectation_lines(score(out, AttackConfig(name="calibrated")))[-1],
    )
    (out / "config.yaml").write_text("matched: true")
    metrics = score(out, AttackConfig(name="calibrated"))
    assert metrics.matched and metrics.epsilon.lower is None
    assert expectation_lines(metrics)[-1].startswith(
        "epsilon: no bound, because `jaxmia match` selected the recipe by the public"
    )


@pytest.mark.parametrize(
    ("auc", "expected", "guessing"),
    [
        ((0.49, 0.6), None, True),
        ((0.51, 0.6), None, False),
        ((0.4, 0.45), None, True),
        (None, (0.01, 0.2), False),
        ((0.49, 0.6), (0.04, 0.2), True),
        ((0.49, 0.6), (0.06, 0.2), False),
    ],
)
def test_no_sample_is_vulnerable_to_guessing(
    planted: tuple[Path, np.ndarray],
    capsys: pytest.CaptureFixture[str],
    auc: tuple[float, float] | None,
    expected: tuple[float, float] | None,
    guessing: bool,
):
    metrics = score(planted[0], AttackConfig(targets=8))
    assert metrics.public and metrics.private
    public = replace(metrics.public, auc=Estimate(0.5, *auc)) if auc else None
    private = metrics.private.model_copy(update={"low": expected[0], "high": expected[1]}) if expected else None
    changed = metrics.model_copy(update={"public": public, "private": private})
    capsys.readouterr()
    show_metrics(changed, as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "vulnerable samples: none are listed, since the attack cannot be told from guessing: AUC" in shown
    ) == guessing
    assert ("most vulnerable samples: gap" in shown) != guessing


def test_no_id_becomes_a_formula_of_a_spreadsheet(tmp_path: Path):
    ids = ["=HYPERLINK(1)", "+cmd|x", "-2+3", "@SUM(1)", "\t=1", "-2", "+2.5", "a=b"]
    pool = pool_of([1] * len(ids), ids)
    write_samples(tmp_path / "samples.csv", pool, np.zeros(len(ids)), {}, {})
    written = [row["id"] for row in rows_of(tmp_path / "samples.csv")]
    assert written == ["'=HYPERLINK(1)", "'+cmd|x", "'-2+3", "'@SUM(1)", "'\t=1", "-2", "+2.5", "a=b"]
