import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jax_privacy import auditing

from bridge.challenge import save_challenge
from jaxmia.attacks import score_all
from jaxmia.cli.main import main
from jaxmia.config import Config, load_config
from jaxmia.data.masks import draw_folds, membership_masks
from jaxmia.data.pool import UNKNOWN
from jaxmia.errors import InputError
from jaxmia.evaluation.intervals import LEVEL
from jaxmia.evaluation.metrics import auc, figures, tpr_at_fpr
from jaxmia.evaluation.selection import select_attack
from jaxmia.files import load_npz
from jaxmia.pipeline.audit import Audit, fill_in, join_chunks
from jaxmia.pipeline.run import run
from jaxmia.pipeline.scoring import score
from jaxmia.report import write_report
from jaxmia.runs.matrices import read_matrices
from jaxmia.runs.metrics import RunMetrics
from jaxmia.runs.rundir import RunDir
from jaxmia.runs.store import ScoreStore
from tests.challenge import make_challenge, make_pool
from tests.conftest import Records, make_chunk, telling

FOLDS = 3


def write_truth(path: Path, ids: np.ndarray, members: np.ndarray) -> Path:
    rows = [f"{name},{int(member)}" for name, member in zip(ids, members, strict=True)]
    path.write_text("\n".join(["id,membership", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path, np.ndarray]:
    """A challenge, the truth of its private samples, and the membership of all; the target is not trained."""
    folder = tmp_path_factory.mktemp("case")
    pool = make_pool(count=160)
    members = np.where(pool.public, pool.membership == 1, np.arange(160) % 2 == 0)
    config = load_config(make_challenge(folder, pool, attack={"name": "auto", "targets": 6}))
    write_truth(folder / "truth.csv", pool.ids[~pool.public], members[~pool.public])
    return config, folder / "truth.csv", members


@pytest.fixture(scope="module")
def audited(
    case: tuple[Config, Path, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Audit, RunMetrics]:
    config, truth, _ = case
    audit = Audit(config, tmp_path_factory.mktemp("audit") / "out", FOLDS, truth, compare=True)
    return audit, audit.run()


def test_shadows_of_a_fold_take_all_memberships_outside_of_it_as_told(audited, case):
    audit, _ = audited
    config, _, members = case
    fold = draw_folds(config.seed, len(members), FOLDS)
    drawn = membership_masks(config.seed, range(8), len(members))
    for number in range(FOLDS):
        mask = ScoreStore(RunDir(audit.out).folds / str(number) / "shadows").read().mask
        np.testing.assert_array_equal(mask[:, fold != number], np.tile(members[fold != number], (8, 1)))
        np.testing.assert_array_equal(mask[:, fold == number], drawn[:, fold == number])


def test_each_sample_is_answered_by_the_models_of_its_own_fold(audited, case):
    """A naive loop over models and samples; the joined masks are those of a run that draws every membership."""
    audit, _ = audited
    joined = ScoreStore(RunDir(audit.out).shadows).read()
    fold = draw_folds(case[0].seed, joined.phi.shape[-1], FOLDS)
    parts = [ScoreStore(RunDir(audit.out).folds / str(number) / "shadows").read() for number in range(FOLDS)]
    for row, model in enumerate(joined.model):
        for sample, own in enumerate(fold):
            (place,) = np.flatnonzero(parts[own].model == model)
            np.testing.assert_array_equal(joined.phi[row, :, sample], parts[own].phi[place, :, sample])
    np.testing.assert_array_equal(joined.mask, membership_masks(case[0].seed, range(8), len(fold)))


def test_every_sample_is_scored_by_one_attack_and_counted(audited, case):
    audit, metrics = audited
    members = case[2]
    scores = load_npz(RunDir(audit.out).scores)[metrics.attack]
    assert np.isfinite(scores).all()
    assert metrics.public == figures(scores, members)
    assert (metrics.samples, metrics.fixed, metrics.models) == (160, 0, 8)
    assert metrics.audit and (metrics.audit.folds, metrics.audit.models) == (FOLDS, 8 * FOLDS)
    assert metrics.private is None, "nothing is left to be promised"
    with RunDir(audit.out).samples.open() as file:
        assert {row["fixed"] for row in csv.DictReader(file)} == {"0"}
    assert RunMetrics.read(audit.out) == metrics


def test_a_target_that_was_trained_on_nothing_is_not_found_out(audited):
    """What the shadows were told of other samples must not reach a sample's own score."""
    _, metrics = audited
    assert metrics.public.auc.low < 0.5 < metrics.public.auc.high


def test_the_comparison_is_with_a_run_that_knows_nothing_and_draws_the_same_masks(audited, case):
    audit, metrics = audited
    members, other = case[2], metrics.audit.uninformed
    informed, uninformed = (read_matrices(out) for out in (audit.out, RunDir(audit.out).uninformed))
    np.testing.assert_array_equal(informed.shadows.mask, uninformed.shadows.mask)
    np.testing.assert_array_equal(informed.evidence.target, uninformed.evidence.target)
    one = load_npz(RunDir(audit.out).scores)[metrics.attack]
    two = load_npz(RunDir(RunDir(audit.out).uninformed).scores)[other.attack]
    assert other.figures == figures(two, members)
    assert other.auc_gain.value == pytest.approx(auc(one, members) - auc(two, members))
    assert other.tpr_gain.value == pytest.approx(tpr_at_fpr(one, members, 0.05) - tpr_at_fpr(two, members, 0.05))
    assert other.tpr_gain.low <= other.tpr_gain.value <= other.tpr_gain.high


def test_epsilon_comes_from_folds_scored_by_themselves(audited, case):
    """Bonferroni over folds, each with the attack that its own shadows choose, and over the numbers of guesses: a half
    and a quarter of its 53 or 54 samples.
    """
    audit, metrics = audited
    matrices, members, lowest = read_matrices(audit.out), case[2], []
    for number, evidence in enumerate(matrices.evidence.by_fold()):
        chosen = select_attack(evidence, case[0].attack).chosen
        scores, own = score_all(chosen, evidence), members[matrices.evidence.fold == number]
        auditor = auditing.CanaryScoreAuditor(scores[own], scores[~own])
        for count in (len(scores) // 2, len(scores) // 4):
            strategy = auditing.Explicit(np.sort(scores)[-count])
            lowest.append(auditor.epsilon_one_run((1 - LEVEL) / FOLDS / 2, 1e-5, threshold_strategy=strategy))
    assert metrics.epsilon.lower == pytest.approx(max(lowest))


def test_the_report_says_that_it_is_an_audit(audited):
    audit, _ = audited
    page = write_report(audit.out).read_text()
    assert f" in each of {FOLDS} folds" in page
    assert "This is an audit: each sample was scored by shadows trained with the true" in page
    assert "Without known memberships, the attack" in page


def test_the_same_call_trains_nothing_again_and_goes_on_with_more_models(case, tmp_path: Path, records: Records):
    config, truth, _ = case
    few = config.model_copy(update={"shadow": config.shadow.model_copy(update={"count": 6})})
    Audit(few, tmp_path, 2, truth).run()
    before = (RunDir(tmp_path).shadows / "00000-00005.npz").read_bytes()
    records.clear()
    assert str(Audit(few, tmp_path, 2, truth).cost()) == "12 shadow models, all of which exist already"
    Audit(few, tmp_path, 2, truth).run()
    assert telling(records, "shadows", "all 6", "exist") == ["INFO", "INFO"]
    assert (RunDir(tmp_path).shadows / "00000-00005.npz").read_bytes() == before
    more = Audit(config, tmp_path, 2, truth)
    assert (more.cost().models, more.cost().missing) == (16, 4)
    assert more.cost().seconds > 0
    assert more.run().models == 8
    assert ScoreStore(RunDir(tmp_path).shadows).read().model.tolist() == list(range(8))


def test_public_samples_alone_need_no_truth(case, tmp_path: Path):
    config, _, members = case
    pool = make_pool(count=160)
    told = replace(pool, membership=members.astype(np.int8))
    save_challenge(told, tmp_path / "all.pt", tmp_path / "none.pt")
    challenge = config.challenge.model_copy(update={"public": tmp_path / "all.pt", "private": None})
    audit = Audit(config.model_copy(update={"challenge": challenge}), tmp_path / "out")
    assert audit.pool.ids.tolist() == pool.ids.tolist()
    np.testing.assert_array_equal(audit.pool.membership == 1, members)


def test_what_an_audit_cannot_do_without_is_named(case, tmp_path: Path):
    config, truth, _ = case
    with pytest.raises(
        InputError, match=r"the membership of 80 of 160 samples is unknown, the first being 's0-80'; .*--truth"
    ):
        Audit(config, tmp_path).run()
    for folds in (1, 161):
        with pytest.raises(InputError, match=rf"--folds: {folds} is not between 2 and 160"):
            Audit(config, tmp_path, folds, truth).run()
    assert not list(tmp_path.iterdir())
    run(config.model_copy(update={"attack": config.attack.model_copy(update={"name": "margin"})}), tmp_path)
    with pytest.raises(InputError, match=r"0-00001.npz: belongs to a run that is not an audit; use another folder"):
        Audit(config, tmp_path, 2, truth).run()
    assert not RunDir(tmp_path).folds.exists()


def test_other_folds_are_another_audit(audited, case):
    audit, _ = audited
    other = Audit(case[0], audit.out, 2, case[1])
    for call in (other.cost, other.run):
        with pytest.raises(
            InputError, match=rf"^--folds: 2, but {audit.out} is an audit in 3 folds; use another --out$"
        ):
            call()


def test_a_truth_fills_in_and_must_not_contradict(tmp_path: Path):
    pool = make_pool(count=8)
    given = np.array([*(pool.membership[:4] == 1), True, False, True, True])
    filled = fill_in(pool, write_truth(tmp_path / "t.csv", pool.ids, given))
    np.testing.assert_array_equal(filled.membership, given)
    partly = fill_in(pool, write_truth(tmp_path / "t.csv", pool.ids[4:6], given[4:6]))
    np.testing.assert_array_equal(partly.membership, [*pool.membership[:4], 1, 0, UNKNOWN, UNKNOWN])
    with pytest.raises(InputError, match=r"t.csv: membership of 's0-0' is ., but in the public file "):
        fill_in(pool, write_truth(tmp_path / "t.csv", pool.ids[:1], ~given[:1]))


def test_a_row_of_which_a_model_diverged_is_left_out():
    fold = np.arange(30) % 2
    joined = join_chunks(
        [make_chunk([0, 2, 3], seed=1, diverged=(1,)), make_chunk([0, 1, 3], seed=2, diverged=(2,))], fold
    )
    assert joined.model.tolist() == [0, 3]
    assert joined.diverged == (1, 2)
    np.testing.assert_array_equal(joined.mask[1, 1::2], make_chunk([0, 1, 3], seed=2).mask[2, 1::2])
    with pytest.raises(InputError, match="no model is in every fold"):
        join_chunks([make_chunk([0]), make_chunk([1])], fold)


def test_the_command_says_the_cost_before_it_starts(case, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config, truth, _ = case
    path = Path(config.challenge.public or "").parent / "config.yaml"
    out = tmp_path / "out"
    arguments = ["audit", "--config", str(path), "--out", str(out), "--truth", str(truth), "--folds", "2"]
    small = ["--shadow.count", "4", "--shadow.epochs", "1", "--attack.name", "margin"]
    main([*arguments, "--dry-run", *small])
    assert re.search(r"8 shadow models.* 0:00:", capsys.readouterr().out)
    assert not out.exists()
    main([*arguments, "--json", *small])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["audit"] == {"folds": 2, "models": 8, "uninformed": None}
    assert captured.err.index("8 shadow models") < captured.err.index("training 4 of 4")


def test_a_scored_audit_can_be_scored_again_by_another_attack(audited, tmp_path: Path):
    audit, _ = audited
    metrics = score(audit.out, audit.config.attack.model_copy(update={"name": "calibrated"}))
    assert metrics.attack == "calibrated"
    assert metrics.audit and metrics.audit.uninformed is None
