import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from jaxmia.cli.main import main
from jaxmia.config import AttackConfig
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.errors import InputError
from jaxmia.evaluation.metrics import auc
from jaxmia.files import load_npz
from jaxmia.leaderboard.submission import read_scores_csv, to_unit_interval
from jaxmia.pipeline.fuse import FUSION, fuse
from jaxmia.pipeline.scoring import score
from jaxmia.runs.metrics import RunMetrics
from jaxmia.runs.store import Chunk, ScoreStore
from tests.conftest import Records

SAMPLES = 600


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], np.ndarray]:
    """Three scored runs against one target of a signal of 0.8 spreads, each seen through another view."""
    rng = np.random.default_rng(2)
    folder = tmp_path_factory.mktemp("scored")
    members = rng.random(SAMPLES) < 0.5
    membership = np.where(np.arange(SAMPLES) < 300, members, UNKNOWN).astype(np.int8)
    pool = Pool(None, rng.integers(0, 3, SAMPLES), np.array([f"id{i}" for i in range(SAMPLES)]), membership)
    runs = []
    for name in "abc":
        location, mask = rng.normal(0, 2, SAMPLES), rng.random((16, SAMPLES)) < 0.5
        phi = (location + rng.normal(size=(16, SAMPLES)) + 0.8 * mask)[:, None].astype(np.float32)
        run = folder / name
        pool.save(run / "pool.npz")
        np.savez(run / "target.npz", phi=(location + rng.normal(size=SAMPLES) + 0.8 * members)[None])
        nothing = np.full(16, np.nan)
        ScoreStore(run / "shadows").write(Chunk(np.arange(16), mask, phi, nothing, nothing, {}, {}))
        score(run, AttackConfig(name="lira-online-global" if name == "a" else "rmia-online"))
        runs.append(run)
    return runs, members


@pytest.fixture
def runs(scored: tuple[list[Path], np.ndarray], tmp_path: Path) -> list[Path]:
    """Copies of the runs, to be harmed."""
    for run in scored[0]:
        shutil.copytree(run, tmp_path / run.name)
    return [tmp_path / run.name for run in scored[0]]


def test_the_fused_score_is_the_mean_rank_of_each_runs_own_choice(scored: tuple[list[Path], np.ndarray], tmp_path):
    runs, members = scored
    metrics = fuse(tmp_path, runs)
    own = [
        load_npz(run / "scores.npz")[name]
        for run, name in zip(runs, ["lira-online-global", "rmia-online", "rmia-online"], strict=True)
    ]
    expected = sum(rankdata(values) for values in own) / (3 * SAMPLES)
    scores = load_npz(tmp_path / "scores.npz")
    np.testing.assert_allclose(scores[FUSION], expected)
    np.testing.assert_array_equal(scores["run-2"], own[1])
    ids, submitted = read_scores_csv(tmp_path / "submission.csv")
    np.testing.assert_array_equal(ids, [f"id{i}" for i in range(300, SAMPLES)])
    np.testing.assert_array_equal(submitted, to_unit_interval(scores[FUSION][300:]))
    assert auc(scores[FUSION], members) > max(auc(values, members) for values in own) + 0.03
    assert metrics.public.auc.value == pytest.approx(auc(scores[FUSION][:300], members[:300]))
    assert [one.attack for one in metrics.fused] == ["lira-online-global", "rmia-online", "rmia-online"]
    assert "fused runs may share masks" in str(metrics.no_estimate)
    assert json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail) == metrics.to_dict()
    assert RunMetrics.read(tmp_path) == metrics
    earlier = (tmp_path / "metrics.json").read_text().replace('"fused": [', '"families": [')
    (tmp_path / "metrics.json").write_text(earlier)
    assert RunMetrics.read(tmp_path) == metrics
    assert len((tmp_path / "samples.csv").read_text().splitlines()) == SAMPLES + 1


def test_fused_runs_of_which_one_is_an_audit_bound_nothing(runs: list[Path]):
    assert fuse(runs[0].parent / "before", runs).epsilon.lower is not None
    changed(audit={"folds": 2, "models": 32})(runs)
    bound = fuse(runs[0].parent / "after", runs).epsilon
    assert bound.lower is None
    assert bound.reason.startswith("audits are among the fused runs")


def test_fused_runs_are_bounded_as_each_of_them_was_unless_these_differ(runs: list[Path]):
    level = {"lower": 0.5, "delta": 1e-3, "confidence": 0.8, "reason": None}
    for run in runs:
        changed(epsilon=level)([run, run])
    bound = fuse(runs[0].parent / "same", runs).epsilon
    assert (bound.delta, bound.confidence) == (1e-3, 0.8) and bound.lower is not None
    changed(epsilon=level | {"confidence": 0.9})(runs)
    bound = fuse(runs[0].parent / "other", runs).epsilon
    assert bound.lower is None
    assert "at different deltas or confidences; score them again with the same --attack.epsilon_delta" in bound.reason


def test_the_coin_of_fused_runs_is_that_of_all_public_samples(runs: list[Path]):
    """Of 300 public samples 200 are members; of the 30 that are not fixed, 15."""
    membership = np.where(np.arange(SAMPLES) < 300, np.arange(SAMPLES) % 3 > 0, UNKNOWN).astype(np.int8)
    membership[270:300] = np.arange(30) % 2
    for run in runs:
        pool = Pool.load(run / "pool.npz")
        Pool(None, pool.labels, pool.ids, membership).save(run / "pool.npz")
        scores = load_npz(run / "scores.npz")
        fixed = np.arange(SAMPLES) < 270
        np.savez(run / "scores.npz", **{name: np.where(fixed, np.nan, values) for name, values in scores.items()})
    bound = fuse(runs[0].parent / "out", runs).epsilon
    assert bound.lower is None
    assert "of 300 public samples are members" in bound.reason


def test_a_run_that_is_scaled_counts_the_same(scored: tuple[list[Path], np.ndarray], runs: list[Path], tmp_path):
    """Ranks only: a run whose scores were put through a rising function changes nothing."""
    before = fuse(tmp_path / "before", scored[0])
    scores = load_npz(runs[1] / "scores.npz")
    np.savez(runs[1] / "scores.npz", **{name: np.arctan(values) * 1e-3 for name, values in scores.items()})
    after = fuse(tmp_path / "after", runs)
    assert after.public == before.public


def test_the_command_fuses(scored: tuple[list[Path], np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture):
    main(["fuse", *map(str, scored[0][:2]), "--out", str(tmp_path)])
    captured = capsys.readouterr()
    assert "2 fused runs, on the public samples" in captured.out
    assert "submission: 300 rows" in captured.err


def test_the_report_and_the_status_of_fused_runs_say_what_is_there(
    scored: tuple[list[Path], np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture
):
    runs, _ = scored
    fuse(tmp_path, runs[:2])
    main(["status", str(tmp_path)])
    assert capsys.readouterr().out == f"fused:   scores of {runs[0]}, {runs[1]}; this run trains no models\n"
    main(["report", "--out", str(tmp_path)])
    text = (tmp_path / "report.html").read_text()
    assert "mean rank of 2 runs, each with its own attack: lira-online-global, rmia-online" in text
    assert "Each of the fused runs has its own configuration and report" in text
    assert "fused runs may share masks, so their shadows cannot serve as pseudo-targets" in text
    for heading in ("ROC curve", "Comparison of attacks", "TPR by class", "Samples that stand out"):
        assert f"<h2>{heading}</h2>" in text
    assert "Surest non-members: the lowest scores" in text
    assert "vulnerable" not in text
    assert "Training curves" not in text


def shuffled_ids(runs: list[Path]) -> None:
    pool = load_npz(runs[1] / "pool.npz")
    np.savez(runs[1] / "pool.npz", **{**pool, "ids": pool["ids"][::-1]})


def other_membership(runs: list[Path]) -> None:
    pool = load_npz(runs[1] / "pool.npz")
    np.savez(runs[1] / "pool.npz", **{**pool, "membership": np.roll(pool["membership"], 1)})


def other_rate(runs: list[Path]) -> None:
    score(runs[1], AttackConfig(name="loss", fpr=0.2))


def metrics_of(text: str):
    return lambda runs: (runs[1] / "metrics.json").write_text(text)


def changed(**fields: object):
    def harm(runs: list[Path]) -> None:
        path = runs[1] / "metrics.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return harm


def too_short(runs: list[Path]) -> None:
    np.savez(runs[1] / "scores.npz", **{"rmia-online": np.zeros(5)})


def alone(runs: list[Path]) -> None:
    del runs[1:]


def copied(runs: list[Path]) -> None:
    shutil.rmtree(runs[1])
    shutil.copytree(runs[0], runs[1])


def fused_before(runs: list[Path]) -> None:
    fuse(runs[0].parent / "before", runs[:2])
    runs.append(runs[0].parent / "before")


def fused_twice(runs: list[Path]) -> None:
    for name, chosen in (("one", runs[:2]), ("two", runs[1:])):
        fuse(runs[0].parent / name, chosen)
    runs[:] = [runs[0].parent / "one", runs[0].parent / "two"]


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (copied, r"b: has the same scores as .*a, so that these count twice$"),
        (fused_before, r"before: has a run in common with .*a, which counts twice$"),
        (fused_twice, r"two: has a run in common with .*one, which counts twice$"),
    ],
)
def test_scores_that_count_twice_are_warned_of(runs: list[Path], records: Records, change, warning: str):
    change(runs)
    records.clear()
    fuse(runs[0].parent / "out", runs)
    assert re.search(warning, next(record.getMessage() for record in records if record.levelname == "WARNING"))


def test_different_runs_count_once(runs: list[Path], records: Records):
    fuse(runs[0].parent / "out", runs)
    assert not [record for record in records if record.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (shuffled_ids, r"b/pool\.npz: ids differ from those of .*a/pool\.npz$"),
        (other_membership, r"b/pool\.npz: membership differ from those of"),
        (other_rate, r"b/metrics\.json: fpr: 0\.2 differs from 0\.05 of .*--attack\.fpr$"),
        (lambda runs: (runs[1] / "metrics.json").unlink(), r"b/metrics\.json: no such file; `jaxmia score --out"),
        (metrics_of("{"), r"b/metrics\.json: cannot be read as JSON"),
        (changed(fpr=3), r"b/metrics\.json: fpr: 3 must be less than 1"),
        (changed(attack="lost"), r"b/scores\.npz: lacks lost"),
        (too_short, r"b/scores\.npz: rmia-online is float64 \[5\], expected 600 numbers"),
        (lambda runs: runs.append(runs[0] / ".." / "a"), r"\.\./a: given more than once"),
        (lambda runs: runs.append(runs[0].parent / "out"), r"out: given more than once among --out and the runs"),
        (alone, r"runs: got 1, expected at least two"),
    ],
)
def test_runs_that_do_not_fit_are_one_line_and_nothing_is_written(runs: list[Path], harm, complaint: str):
    out = runs[0].parent / "out"
    harm(runs)
    with pytest.raises(InputError, match=complaint) as caught:
        fuse(out, runs)
    assert "\n" not in str(caught.value)
    assert not out.exists()
