from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from jaxmia.attacks import Aligned, Margin
from jaxmia.attacks.record import record_attack
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.evaluation.metrics import figures
from jaxmia.files import load_npz
from jaxmia.report.results import Results, read_results, target_margin
from jaxmia.runs.matrices import Matrices
from tests.report.conftest import PUBLIC, change_metrics, write_truth


def test_a_truth_of_no_private_samples_is_refused(run: tuple[Path, np.ndarray], tmp_path: Path):
    out, members = run
    truth = write_truth(tmp_path / "truth.csv", out, members)
    pool = Pool.load(out / "pool.npz")
    replace(pool, membership=members.astype(np.int8)).save(out / "pool.npz")
    with pytest.raises(
        InputError, match=r"truth\.csv: is not needed: the run has no private samples, since every memb"
    ):
        read_results(out, truth)


def test_the_truth_gives_the_figures_of_evaluate(run: tuple[Path, np.ndarray], tmp_path: Path):
    out, members = run
    results = read_results(out, write_truth(tmp_path / "truth.csv", out, members))
    assert results.truth
    scores = load_npz(out / "scores.npz")["lira-online-global"]
    assert results.truth.figures == figures(scores[PUBLIC:], members[PUBLIC:])


def matrices_of(results: Results) -> Matrices:
    assert results.matrices
    return results.matrices


def test_the_targets_margin_is_put_on_scale_only_where_the_attack_does_so(run: tuple[Path, np.ndarray]):
    out, _ = run
    results = read_results(out)
    np.testing.assert_array_equal(
        target_margin(matrices_of(results), results.attack), load_npz(out / "target.npz")["phi"][0]
    )
    target = load_npz(out / "target.npz")["phi"]
    np.savez(out / "target.npz", phi=target * 2 + 30)
    scores = load_npz(out / "scores.npz")
    np.savez(out / "scores.npz", **scores, **{"margin-aligned": scores["margin"]})
    change_metrics(out, attack="margin-aligned", attack_record=asdict(record_attack(Aligned(Margin()))))
    results = read_results(out)
    assert results.attack == Aligned(Margin())
    shifted = target_margin(matrices_of(results), results.attack)
    assert np.corrcoef(shifted, target[0])[0, 1] == pytest.approx(1)
    shadows = matrices_of(results).shadows.phi[:, 0]
    assert np.median(shifted) == pytest.approx(np.median(np.median(shadows, axis=1)))


def with_scores(**changes):
    def harm(out: Path) -> None:
        np.savez(out / "scores.npz", **{**load_npz(out / "scores.npz"), **changes})

    return harm


def with_metrics(text: str):
    return lambda out: (out / "metrics.json").write_text(text)


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (
            lambda out: (out / "metrics.json").unlink(),
            r"metrics\.json: no such file; `jaxmia score --out .*run` writes",
        ),
        (with_metrics("{"), r"metrics\.json: cannot be read as JSON: "),
        (with_metrics("[" * 100_000), r"metrics\.json: cannot be read as JSON: "),
        (with_metrics("[]"), r"metrics\.json: .*must be a"),
        (with_metrics("{}"), r"metrics\.json: attack: is missing\n.*metrics\.json: attack_record: is missing"),
        (lambda out: change_metrics(out, fpr=2), r"metrics\.json: fpr: 2 must be less than 1"),
        (lambda out: change_metrics(out, public={"members": 3}), r"metrics\.json: public\.nonmembers: "),
        (lambda out: change_metrics(out, attack="none"), r"scores\.npz: lacks none; it holds lira-online-global"),
        (lambda out: (out / "scores.npz").unlink(), r"scores\.npz: no such file"),
        (with_scores(margin=np.zeros(3)), r"scores\.npz: margin is float64 \[3\], expected 400 floats"),
        (with_scores(margin=np.zeros(400, int)), r"scores\.npz: margin is int64 \[400\], expected 400 floats"),
        (with_scores(margin=np.full(400, np.nan)), r"scores\.npz: margin of sample 0 is nan"),
        (lambda out: (out / "pool.npz").unlink(), r"pool\.npz: no such file"),
    ],
)
def test_what_is_missing_or_bad_is_named(run: tuple[Path, np.ndarray], harm, complaint: str):
    harm(run[0])
    with pytest.raises(InputError, match=complaint):
        read_results(run[0])
