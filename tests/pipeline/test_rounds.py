from pathlib import Path

import numpy as np
import pytest

from jaxmia.attacks import Evidence
from jaxmia.cli.commands.status import describe
from jaxmia.config import AttackConfig, Config, load_config, parse_config
from jaxmia.data.masks import membership_masks
from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.errors import InputError
from jaxmia.evaluation.chances import membership_chances
from jaxmia.evaluation.metrics import auc
from jaxmia.pipeline.rounds import join_rounds
from jaxmia.pipeline.run import query, run, train
from jaxmia.pipeline.scoring import score
from jaxmia.pipeline.shard import Shard
from jaxmia.report import write_report
from jaxmia.runs.matrices import read_matrices
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.status import read_status
from jaxmia.runs.store import Chunk, ScoreStore
from tests.challenge import make_challenge, make_pool
from tests.conftest import Records, make_chunk, telling


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("case")
    shadow = {"rounds": 2, "count": 17, "epochs": 8, "known": 0.5}
    return load_config(
        make_challenge(folder, make_pool(count=160), shadow=shadow, attack={"name": "auto", "targets": 6})
    )


@pytest.fixture(scope="module")
def done(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rounds") / "out"
    run(config, out)
    return out


def test_the_second_round_draws_members_by_what_the_first_found(done: Path, config: Config):
    first, second = (read_matrices(RunDir(done).rounds / number) for number in "12")
    assert (len(first.shadows.model), len(second.shadows.model)) == (9, 8)
    np.testing.assert_array_equal(first.shadows.mask, membership_masks(config.seed, range(9), 160)[:, first.free])
    chances = membership_chances(first.evidence)
    assert chances.std() > 0.01
    expected = chances * len(second.shadows.mask)
    spread = np.sqrt((len(second.shadows.mask) * chances * (1 - chances)).sum())
    assert abs(second.shadows.mask.sum() - expected.sum()) < 5 * spread


def test_both_rounds_are_joined_and_scored_as_one(done: Path):
    joined = ScoreStore(RunDir(done).shadows).read()
    parts = [ScoreStore(RunDir(done).rounds / number / "shadows").read() for number in "12"]
    assert joined.model.tolist() == list(range(17))
    np.testing.assert_array_equal(joined.phi, np.concatenate([part.phi for part in parts]))
    np.testing.assert_array_equal(joined.mask, np.concatenate([part.mask for part in parts]))
    matrices = read_matrices(done)
    assert (~matrices.free).sum() == 40
    assert (joined.mask[:, ~matrices.free] == (matrices.everyone.membership[~matrices.free] == 1)).all()


def test_only_the_first_round_plays_the_target(done: Path, config: Config):
    matrices = read_matrices(done)
    np.testing.assert_array_equal(matrices.pseudo_target_evidence.shadows, matrices.evidence.shadows[:9])
    np.testing.assert_array_equal(matrices.pseudo_target_evidence.mask, matrices.evidence.mask[:9])
    metrics = score(done, config.attack)
    assert (metrics.models, metrics.rounds) == (17, 2)
    alone = score(RunDir(done).rounds / "1", config.attack)
    assert metrics.selection == alone.selection
    assert metrics.private == alone.private
    assert metrics.misalignment == alone.misalignment
    assert "trained in a second round" in write_report(done).read_text()


def counted(evidence: Evidence) -> float:
    """Mean AUC on pseudo-targets of the mere number of other models that hold a sample."""
    return float(np.mean([auc(own.in_.count, members) for own, members in evidence.pseudo_targets(range(8))]))


def test_the_number_of_other_models_tells_nothing_of_a_pseudo_target(tmp_path: Path):
    """Two rounds by a naive draw: the second's masks agree with each other, and would give each other away."""
    rng = np.random.default_rng(0)
    samples, models = 2000, 16
    chances = np.clip(rng.random(samples), 0.15, 0.85)
    mask = np.concatenate([rng.random((models, samples)) < 0.5, rng.random((models, samples)) < chances])
    phi, nothing = rng.normal(size=(2 * models, 1, samples)).astype(np.float32), np.full(2 * models, np.nan)
    membership = np.where(np.arange(samples) < 400, np.arange(samples) % 2, UNKNOWN).astype(np.int8)
    Pool(None, np.zeros(samples, np.int32), np.arange(samples).astype(str), membership).save(tmp_path / "pool.npz")
    np.savez(tmp_path / "target.npz", phi=phi[0])
    extra = {"round": np.repeat([1, 2], models)}
    ScoreStore(tmp_path / "shadows").write(Chunk(np.arange(2 * models), mask, phi, nothing, nothing, extra, {}))
    matrices = read_matrices(tmp_path)
    assert counted(matrices.pseudo_target_evidence) == pytest.approx(0.5, abs=0.02)
    second = Evidence(phi[0], phi[models:], mask[models:], matrices.evidence.labels)
    assert counted(second) > 0.6
    assert score(tmp_path, AttackConfig(name="calibrated")).private


def test_a_finished_run_trains_nothing_again(done: Path, config: Config, records: Records):
    before = {path: path.read_bytes() for path in RunDir(done).shadows.iterdir()}
    run(config, done)
    assert telling(records, "shadows", "all 9", "exist") and telling(records, "shadows", "all 8", "exist")
    assert {path: path.read_bytes() for path in RunDir(done).shadows.iterdir()} == before


def test_shards_train_the_first_round_and_then_the_second(done: Path, config: Config, tmp_path: Path, records: Records):
    """With the margins, masks and scores of a run in one process."""
    out = tmp_path / "out"
    train(config, out, shard=Shard(0, 2))
    assert telling(records, "round 1 of 2", "1, 3, 5, 7", "are missing")
    assert not (RunDir(out).rounds / "2").exists()
    lines = describe(read_status(out))
    assert lines[:2] == ["round 1 of 2: done:    5 of 9 models", "round 1 of 2: missing: 1, 3, 5, 7"]
    train(config, out, shard=Shard(1, 2))
    first, second = read_status(out).rounds
    assert (first.done, first.missing) == (list(range(9)), [])
    assert (second.count, second.done, second.missing) == (8, [10, 12, 14, 16], [9, 11, 13, 15])
    assert len(ScoreStore(RunDir(out).rounds / "2" / "shadows").models()) == 4
    with pytest.raises(InputError, match="no such file"):
        score(out, config.attack)
    run(config, out)
    status = read_status(out)
    assert (status.count, status.done, status.rounds) == (17, list(range(17)), [])
    found, expected = (ScoreStore(RunDir(path).shadows).read() for path in (out, done))
    np.testing.assert_array_equal(found.model, expected.model)
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_allclose(found.phi, expected.phi, atol=1e-5)


def test_models_that_diverged_are_named():
    first, second = make_chunk([0, 2], diverged=(1,)), make_chunk([3, 4], diverged=(5,))
    joined = join_rounds([first, second])
    assert (joined.model.tolist(), joined.diverged) == ([0, 2, 3, 4], (1, 5))
    assert joined.extra["round"].tolist() == [1, 1, 2, 2]


def test_where_two_rounds_cannot_be_it_is_said(config: Config, tmp_path: Path):
    with pytest.raises(InputError, match=r"shadow\.rounds: 2 needs the target's scores between the rounds"):
        query(config, tmp_path)
    with pytest.raises(InputError, match=r"rounds: 2 rounds need at least as many models \(count is 1\)"):
        parse_config({"shadow": {"rounds": 2, "count": 1}}, "here")
    once = config.model_copy(update={"shadow": config.shadow.model_copy(update={"rounds": 1, "count": 4})})
    run(once.model_copy(update={"attack": AttackConfig(name="margin")}), tmp_path)
    with pytest.raises(InputError, match="belongs to a run that is not a run in two rounds; use another folder"):
        run(config, tmp_path)
