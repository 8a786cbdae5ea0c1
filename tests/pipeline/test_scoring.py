import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxmia.attacks import Calibrated, LiraOnline
from jaxmia.attacks.catalogue import distinct_attacks, named_attack, standard_attacks
from jaxmia.attacks.record import AttackRecord, rebuild_attack
from jaxmia.cli.commands.run import Score
from jaxmia.cli.display import expectation_lines, progress_bar
from jaxmia.config import AttackConfig, parse_config
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.evaluation.metrics import figures, tpr_at_fpr
from jaxmia.files import load_npz
from jaxmia.leaderboard.submission import read_scores_csv, to_unit_interval, validate_submission
from jaxmia.pipeline.scoring import public_figures, score
from jaxmia.pipeline.stages import Pipeline
from jaxmia.report import write_report
from jaxmia.report.results import read_results
from jaxmia.report.verdict import reach_verdict
from jaxmia.runs.matrices import read_matrices
from jaxmia.runs.metrics import RunMetrics
from jaxmia.runs.store import ScoreStore
from tests.conftest import Records, make_chunk, telling


def test_matrices_made_elsewhere_become_a_valid_submission_that_beats_chance(planted: tuple[Path, np.ndarray]):
    """Nothing but pool.npz, target.npz and shadows/ is there; the signal is 1.5 spreads."""
    out, members = planted
    metrics = score(out, AttackConfig(name="lira-online-global"))
    pool = Pool.load(out / "pool.npz")
    private = ~pool.public
    assert validate_submission(out / "submission.csv", pool.ids[private].tolist()) == []
    ids, submitted = read_scores_csv(out / "submission.csv")
    np.testing.assert_array_equal(ids, pool.ids[private])
    assert tpr_at_fpr(submitted, members[private], 0.05) > 0.2

    scores = load_npz(out / "scores.npz")
    recorded = distinct_attacks(read_matrices(out).evidence)
    assert set(scores) == {"lira-online-global", *(attack.name for attack in recorded)}
    assert all(values.dtype == np.float64 and values.shape == (len(pool),) for values in scores.values())
    np.testing.assert_array_equal(submitted, to_unit_interval(scores["lira-online-global"][private]))

    assert RunMetrics.read(out) == metrics
    assert (metrics.attack, metrics.models, metrics.samples) == ("lira-online-global", 24, 400)
    assert metrics.attack_record and rebuild_attack(metrics.attack_record) == LiraOnline("global")
    assert metrics.public == figures(scores["lira-online-global"][pool.public], members[pool.public])
    assert metrics.public.auc.low > 0.6


def test_scores_do_not_depend_on_private_labels_that_are_not_there(planted: tuple[Path, np.ndarray]):
    """Membership of the public samples is for the figures alone: no attack sees it."""
    out, _ = planted
    score(out, AttackConfig())
    before = load_npz(out / "scores.npz")
    pool = Pool.load(out / "pool.npz")
    flipped = np.where(pool.public, 1 - pool.membership, -1).astype(np.int8)
    Pool(None, pool.labels, pool.ids, flipped).save(out / "pool.npz")
    score(out, AttackConfig())
    after = load_npz(out / "scores.npz")
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values, err_msg=name)


def test_the_figures_are_at_the_rate_that_was_asked_for(planted: tuple[Path, np.ndarray]):
    out, _ = planted
    metrics = score(out, AttackConfig(fpr=0.2))
    assert [entry.fpr for entry in metrics.public.tpr] == [0.2, 0.05, 0.01, 0.001]


def test_without_both_kinds_of_public_samples_there_are_no_figures(planted: tuple[Path, np.ndarray]):
    out, _ = planted
    pool = Pool.load(out / "pool.npz")
    scores = np.arange(len(pool), dtype=float)
    for membership in (np.ones_like(pool.membership), np.full_like(pool.membership, -1)):
        assert public_figures(Pool(None, pool.labels, pool.ids, membership), scores, 0.05) is None


def test_an_attack_that_lacks_models_is_left_out_unless_it_was_asked_for(
    planted: tuple[Path, np.ndarray], records: Records
):
    out, _ = planted
    shutil.rmtree(out / "shadows")
    phi = np.random.default_rng(0).normal(size=(4, 2, 400)).astype(np.float32)
    ScoreStore(out / "shadows").write(make_chunk([0, 1, 2, 3], mask=np.zeros((4, 400), bool), phi=phi))
    score(out, AttackConfig(name="lira-offline-global"))
    assert telling(records, "left out", "lira-online-global-fisher,", "no IN model") == ["INFO"]
    assert "lira-online-global-fisher" not in load_npz(out / "scores.npz")
    with pytest.raises(InputError, match="sample 0 has no IN model among 4"):
        score(out, AttackConfig(name="lira-online-global"))


def test_missing_models_are_named_and_whether_there_are_enough(planted: tuple[Path, np.ndarray], records: Records):
    """The configuration of the run asks for 28; models 0 to 23 are there, one chunk of which is taken away."""
    out, _ = planted
    (out / "config.yaml").write_text("shadow: {count: 28}")
    (out / "shadows" / "00008-00015.npz").unlink()
    mask = ScoreStore(out / "shadows").read().mask
    metrics = score(out, AttackConfig(name="calibrated"))
    inside, outside = mask.sum(0).min(), (~mask).sum(0).min()
    assert telling(records, "16 models", "missing 8-15, 24-27", f"{inside} IN", f"{outside} OUT") == ["INFO"]
    assert metrics.missing == (*range(8, 16), *range(24, 28))


def test_where_none_is_missing_nothing_is_said_of_it(planted: tuple[Path, np.ndarray], records: Records):
    out, _ = planted
    for config in (None, "shadow: {count: 24}"):
        if config:
            (out / "config.yaml").write_text(config)
            assert score(out, AttackConfig(name="calibrated")).missing == ()
        assert not telling(records, "missing ")


def test_the_command_prints_tables_or_json(planted: tuple[Path, np.ndarray], capsys: pytest.CaptureFixture[str]):
    out, _ = planted
    Score(out)(["--attack.name", "calibrated"])
    assert "calibrated on the public samples" in capsys.readouterr().out
    Score(out, json=True)(["--attack.name", "calibrated"])
    assert json.loads(capsys.readouterr().out) == json.loads((out / "metrics.json").read_text())


def test_attacks_are_found_by_name():
    for attack in standard_attacks():
        assert named_attack(attack.name).name == attack.name
    assert isinstance(named_attack("lira-online-tied"), LiraOnline)
    with pytest.raises(
        InputError, match=r"attack\.name: 'lira-onlin' is unknown; did you mean 'lira-online-.*allowed are"
    ):
        named_attack("lira-onlin")


def without(name: str):
    return lambda out: (out / name).unlink()


def damaged(name: str):
    return lambda out: (out / name).write_bytes((out / name).read_bytes()[:-30])


def other_pool(out: Path) -> None:
    np.savez(out / "target.npz", phi=np.zeros((2, 399), np.float32))


def other_views(out: Path) -> None:
    np.savez(out / "target.npz", phi=np.zeros((3, 400), np.float32))


def not_finite(out: Path) -> None:
    np.savez(out / "target.npz", phi=np.full((2, 400), np.inf, np.float32))


def flat(out: Path) -> None:
    np.savez(out / "target.npz", phi=np.float32(1))


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (without("pool.npz"), r"pool\.npz: no such file"),
        (without("target.npz"), r"target\.npz: no such file"),
        (lambda out: shutil.rmtree(out / "shadows"), r"shadows: contains no trained shadow models"),
        (damaged("pool.npz"), r"pool\.npz: cannot be read as \.npz"),
        (damaged("target.npz"), r"target\.npz: cannot be read as \.npz"),
        (damaged("shadows/00008-00015.npz"), r"shadows/00008-00015\.npz: cannot be read as \.npz"),
        (other_pool, r"target\.npz: phi has 399 samples, .*pool\.npz has 400"),
        (other_views, r"run: shadows phi: has shape \(24, 2, 400\), expected .* 3 views"),
        (
            not_finite,
            r"target\.npz: the target's logit margin of sample 0 in view 0 is inf, expected a number of at most",
        ),
        (flat, r"target\.npz: phi has shape \[\], expected \[view, sample\]"),
    ],
)
@pytest.mark.usefixtures("unchecked_arrays")
def test_what_is_missing_or_damaged_is_one_line(planted: tuple[Path, np.ndarray], harm, complaint: str):
    out, _ = planted
    harm(out)
    with pytest.raises(InputError, match=complaint) as caught:
        read_matrices(out)
    assert "\n" not in str(caught.value)


def test_nothing_is_written_where_the_input_is_bad(planted: tuple[Path, np.ndarray]):
    out, _ = planted
    before = set(out.rglob("*"))
    other_pool(out)
    with pytest.raises(InputError, match="399 samples"):
        score(out, AttackConfig())
    assert set(out.rglob("*")) == before


def test_a_few_samples_that_lack_a_side_cost_no_attack(planted: tuple[Path, np.ndarray], records: Records):
    out, _ = planted
    chunks = ScoreStore(out / "shadows").read()
    mask = chunks.mask.copy()
    mask[:, 7] = False
    shutil.rmtree(out / "shadows")
    ScoreStore(out / "shadows").write(replace(chunks, mask=mask))
    score(out, AttackConfig(targets=8))
    assert telling(records, "without IN or without OUT", "1 of 400") == ["INFO"]
    assert not telling(records, "left out")
    scores = load_npz(out / "scores.npz")
    assert {"lira-online-shrunk-fisher", "rmia-online", "lira-multivariate"} <= scores.keys()
    assert all(np.isfinite(score).all() for score in scores.values())


def test_a_submission_is_written_when_all_else_is(planted: tuple[Path, np.ndarray]):
    out, _ = planted
    score(out, AttackConfig(name="margin"))
    before = (out / "submission.csv").read_text()
    (out / "metrics.json").unlink()
    (out / "metrics.json").mkdir()
    with pytest.raises(InputError, match=r"metrics\.json"):
        score(out, AttackConfig(name="calibrated"))
    assert (out / "submission.csv").read_text() == before


def test_a_margin_of_the_target_that_would_overflow_is_named(planted: tuple[Path, np.ndarray]):
    out, _ = planted
    phi = np.load(out / "target.npz")["phi"].astype(np.float64)
    phi[1, 3] = -1e200
    np.savez(out / "target.npz", phi=phi)
    complaint = r"target\.npz: the target's logit margin of sample 3 in view 1 is -1e\+200, expected a number"
    with pytest.raises(InputError, match=complaint):
        score(out, AttackConfig(name="margin"))


OWN = """
class Excess:
    name = "excess"

    def __call__(self, evidence):
        return evidence.target[0] - evidence.out.mean[0]
"""


def test_an_own_attack_scores_a_run_is_recorded_and_reported(
    planted: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, _ = planted
    (tmp_path / "jaxmia_own_attack.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    path = "jaxmia_own_attack:Excess"
    metrics = score(out, AttackConfig(name=path))
    assert metrics.attack == "excess"
    assert metrics.attack_record == AttackRecord("jaxmia_own_attack:Excess", {})
    evidence = read_matrices(out).evidence
    np.testing.assert_array_equal(load_npz(out / "scores.npz")["excess"], Calibrated("identity")(evidence))
    assert "the report does not run an attack of your own" in write_report(out).read_text()

    metrics = score(out, AttackConfig(candidates=(path,)))
    assert "excess" in [row.name for row in metrics.selection.results]
    assert "excess" in load_npz(out / "scores.npz")


def test_why_a_named_attack_has_no_estimate_is_said(planted: tuple[Path, np.ndarray]):
    out, _ = planted
    assert score(out, AttackConfig(name="calibrated")).no_estimate is None
    chunks = ScoreStore(out / "shadows").read()
    shutil.rmtree(out / "shadows")
    ScoreStore(out / "shadows").write(replace(chunks, mask=np.roll(np.repeat(chunks.mask[::2], 2, axis=0), 1, axis=0)))
    metrics = score(out, AttackConfig(name="calibrated"))
    assert metrics.private is None
    assert re.search(r"models \d+ and \d+ have masks that correlate by 1\.00", str(metrics.no_estimate))
    assert f"private samples: no estimate: {metrics.no_estimate}" in expectation_lines(metrics)
    remarks = reach_verdict(read_results(out, None), None).remarks
    assert f"There is no estimate for the private samples: {metrics.no_estimate}." in remarks


OFTEN_NAN = """
import numpy as np


class OftenNaN:
    name = "often-nan"

    def __call__(self, evidence):
        return np.full(len(evidence.labels), np.nan if len(evidence.shadows) < 24 else 0.0)
"""


def test_an_own_attack_that_fails_on_pseudo_targets_is_not_said_to_have_too_few(
    planted: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, _ = planted
    (tmp_path / "jaxmia_often_nan.py").write_text(OFTEN_NAN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    metrics = score(out, AttackConfig(name="jaxmia_often_nan:OftenNaN"))
    assert "often-nan" in str(metrics.no_estimate)


def test_an_error_that_is_not_about_pseudo_targets_is_no_reason_for_having_no_estimate(
    planted: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
):
    def refuse(*arguments: object, **options: object) -> None:
        raise InputError("disk: is on fire")

    monkeypatch.setattr("jaxmia.pipeline.scoring.select", refuse)
    with pytest.raises(InputError, match="disk: is on fire"):
        score(planted[0], AttackConfig(name="calibrated"))


def test_an_attack_that_cannot_be_had_is_refused_before_anything_is_trained(tmp_path: Path):
    config = parse_config({"attack": {"candidates": ["no_such_module:Attack"]}}, "run.yaml")
    pipeline = Pipeline(config, tmp_path / "run", progress_bar)
    with (
        pytest.raises(InputError, match=r"attack\.candidates: cannot import 'no_such_module:Attack': ModuleNotFound"),
        pipeline.prepared(),
    ):
        pass
    assert not (tmp_path / "run").exists()


def test_code_that_only_a_run_directory_names_is_not_run(
    planted: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, _ = planted
    ran = tmp_path / "ran"
    (tmp_path / "jaxmia_foreign_attack.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n{OWN}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    name, config = "jaxmia_foreign_attack:Excess", out / "config.yaml"
    for section in ({"name": name}, {"candidates": [name]}):
        config.write_text(json.dumps({"attack": section}))
        with pytest.raises(InputError, match=f"config.yaml: attack: {name!r} is code, which runs only if you name"):
            Score(out)([])
        assert not ran.exists()
    Score(out)(["--attack.candidates", name])
    assert ran.exists()
    ran.unlink()
    sys.modules.pop("jaxmia_foreign_attack")
    Score(out, config=config)([])
    assert ran.exists()


def write_arrays(out: Path, **arrays: np.ndarray) -> None:
    for path in (out / "shadows").iterdir():
        np.savez(path, **dict(np.load(path)) | arrays)


@pytest.mark.parametrize("recorded", [{"told": "12ab"}, {"folds": 4}])
def test_a_run_that_did_not_store_what_is_fixed_is_refused(planted: tuple[Path, np.ndarray], recorded: dict):
    out, _ = planted
    write_arrays(out, metadata=np.array(json.dumps({"cache_key": recorded})))
    with pytest.raises(InputError, match=r"shadows: an earlier version of jaxmia did not store .*; start it again"):
        score(out, AttackConfig(name="margin"))


def test_fixed_samples_and_folds_are_read_without_metadata(planted: tuple[Path, np.ndarray]):
    out, members = planted
    free, fold = np.arange(400) % 10 > 0, np.arange(400) % 3
    pool = Pool.load(out / "pool.npz")
    fixed = ~free & pool.public
    for path in (out / "shadows").iterdir():
        arrays = dict(np.load(path))
        arrays["mask"][:, fixed] = members[fixed]
        np.savez(path, **{name: value for name, value in arrays.items() if name != "metadata"}, free=~fixed, fold=fold)
    matrices = read_matrices(out)
    np.testing.assert_array_equal(matrices.free, ~fixed)
    np.testing.assert_array_equal(matrices.evidence.fold, fold[~fixed])
    write_arrays(out, free=free)  # among them private samples, whose membership is unknown
    with pytest.raises(InputError, match=r"the fixed memberships of these models differ from .*pool\.npz"):
        read_matrices(out)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"free": np.ones(399, bool)}, r"npz: free is bool \[399\], expected bool \[sample\], samples as in mask"),
        ({"free": np.zeros(400, bool)}, r"npz: free is .*, at least one true"),
        ({"free": np.ones(400)}, r"npz: free is float64 \[400\], expected bool"),
        ({"fold": np.zeros(400)}, r"npz: fold is float64 \[400\], expected integers \[sample\], samples as in mask"),
    ],
)
def test_free_samples_and_folds_of_another_form_are_refused(
    planted: tuple[Path, np.ndarray], arrays: dict, complaint: str
):
    out, _ = planted
    write_arrays(out, **arrays)
    with pytest.raises(InputError, match=complaint):
        read_matrices(out)


def test_files_that_differ_in_what_is_fixed_are_refused(planted: tuple[Path, np.ndarray]):
    out, _ = planted
    path = out / "shadows" / "00008-00015.npz"
    np.savez(path, **dict(np.load(path)), free=np.ones(400, bool))
    with pytest.raises(InputError, match=r"00008-00015\.npz: free differs from that of 00000-00007\.npz"):
        read_matrices(out)
