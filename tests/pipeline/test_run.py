import csv
import json
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest

from bridge.networks import build
from bridge.open import open_pool, open_target
from bridge.target import Target, save_target
from jaxmia.api import attack, train_shadows
from jaxmia.attacks import Evidence
from jaxmia.config import AttackConfig, Config, EnsembleConfig, QueryConfig, load_config
from jaxmia.data.kinds import IMAGES
from jaxmia.data.masks import Masks
from jaxmia.data.pool import Pool
from jaxmia.errors import InputError
from jaxmia.evaluation.selection import select_attack
from jaxmia.evaluation.unlike import evidence_on_fixed, likeness_to_shadows
from jaxmia.files import load_npz
from jaxmia.leaderboard.submission import read_scores_csv
from jaxmia.models import Network
from jaxmia.pipeline.models import open_pipeline
from jaxmia.pipeline.run import run, train
from jaxmia.pipeline.scoring import score
from jaxmia.pipeline.stages import Pipeline
from jaxmia.runs.store import ScoreStore
from jaxmia.training.devices import compute_dtype
from tests.challenge import make_challenge, make_pool
from tests.conftest import Records, telling

RESIZED = {"architecture": "cnn", "image_size": 8, "mean": [0.4], "std": [0.3]}


def challenge(folder: Path, **section) -> Config:
    """A challenge of 6 x 6 images; its target has a class more than the labels, and may see larger images."""
    path = make_challenge(
        folder,
        challenge=section,
        shadow={"architecture": section.get("architecture", "mlp"), "width": 4, "epochs": 2, "batch_size": 8},
        query={"batch_size": 32},
        seed=3,
    )
    if section:
        save_target(build(Network("cnn", (8, 8, 1), 4, width=4)), folder / "model.pt")
    return load_config(path)


@pytest.mark.parametrize("section", [{}, RESIZED], ids=["as it is", "resized"])
def test_the_library_and_the_command_line_get_the_same_shadows_scores_and_figures(tmp_path: Path, section: dict):
    """For queries in batches of one size, on which the rounding of products depends on some CPUs."""
    config, out = challenge(tmp_path, **section).model_copy(update={"query": QueryConfig()}), tmp_path / "run"
    metrics = run(config, out)

    pool, target = open_pool(config.challenge), open_target(config.challenge)
    shadows = train_shadows(
        pool,
        config.shadow,
        target.preprocessing,
        target.classes,
        symmetries=config.query.views,
        ensemble=EnsembleConfig(width=2, devices=1, conv="unrolled"),
        seed=config.seed,
    )
    result = attack(pool, target.query, shadows, config.attack.name)
    result.submit(tmp_path / "submission.csv")

    stored = ScoreStore(out / "shadows").read()
    np.testing.assert_array_equal(stored.mask, shadows.mask)
    np.testing.assert_array_equal(stored.phi, shadows.phi)
    np.testing.assert_allclose(load_npz(out / "scores.npz")[config.attack.name], result.scores, rtol=1e-6)
    assert metrics.public.auc.value == result.figures.auc.value
    ours, theirs = (read_scores_csv(folder / "submission.csv") for folder in (tmp_path, out))
    assert np.array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])
    if section:
        assert stored.metadata["cache_key"]["classes"] == 4, "the target's own, which has one more than the labels"


def test_precision_is_part_of_what_tells_models_apart_as_it_was_resolved(tmp_path: Path):
    config, out = challenge(tmp_path), tmp_path / "run"
    run(config, out)
    resolved = str(compute_dtype(config.shadow, jax.devices()[0], IMAGES))
    (other,) = {"float32", "bfloat16"} - {resolved}
    assert ScoreStore(out / "shadows").read().metadata["cache_key"]["shadow"]["precision"] == resolved
    run(config.model_copy(update={"shadow": config.shadow.model_copy(update={"precision": resolved})}), out)
    changed = config.shadow.model_copy(update={"precision": other})
    with pytest.raises(InputError, match=rf"shadow\.precision is '{resolved}' there and '{other}' here"):
        run(config.model_copy(update={"shadow": changed}), out)


def test_the_whole_target_is_queried_in_batches_of_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As many as `query.batch_size` says, the last one filled up, so that one program serves them all."""
    seen: list[int] = []
    query = Target.query

    def counted(self: Target, images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return query(self, images)

    monkeypatch.setattr(Target, "query", counted)
    run(challenge(tmp_path), tmp_path / "run")
    assert set(seen) == {32}


def test_an_interrupted_query_of_the_target_goes_on_with_the_view_that_it_had_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Three batches a view; the second view is interrupted. The margins are those of a query without interruption."""
    config = challenge(tmp_path)
    pipeline = open_pipeline(config, tmp_path / "whole")
    with pipeline.prepared():
        pipeline.query()
    answered: list[int] = []
    query = Target.query

    def interrupted(self: Target, images: np.ndarray) -> np.ndarray:
        if len(answered) == 4:
            raise KeyboardInterrupt
        answered.append(len(images))
        return query(self, images)

    monkeypatch.setattr(Target, "query", interrupted)
    progress: list[tuple[int, int]] = []

    @contextmanager
    def bar(title: str):
        assert title == "target"
        yield lambda report: progress.append((report.done, report.total))

    pipeline = open_pipeline(config, tmp_path / "run", bar)
    with pipeline.prepared():
        with pytest.raises(KeyboardInterrupt):
            pipeline.query()
        assert progress == [(32, 160), (64, 160), (80, 160), (112, 160)]
        answered.clear()
        pipeline.query()
    assert len(answered) == 3
    assert progress[4:] == [(112, 160), (144, 160), (160, 160)]
    whole, resumed = (load_npz(tmp_path / name / "target.npz") for name in ("whole", "run"))
    np.testing.assert_array_equal(whole["phi"], resumed["phi"])
    np.testing.assert_array_equal(whole["correct"], resumed["correct"])
    assert not list((tmp_path / "run").glob("target.partial*"))


@pytest.mark.parametrize("harm", [lambda path: path.write_text("half"), lambda path: np.savez(path, phi=1, correct=1)])
def test_a_partial_query_that_is_damaged_or_of_another_configuration_is_not_used(tmp_path: Path, harm):
    pipeline = open_pipeline(challenge(tmp_path), tmp_path / "run")
    with pipeline.prepared():
        harm(tmp_path / "run" / "target.partial.npz")
        pipeline.query()
    assert load_npz(tmp_path / "run" / "target.npz")["phi"].shape == (2, 80)


def test_a_limit_on_the_size_of_files_reaches_the_target(tmp_path: Path):
    config = challenge(tmp_path)
    limit = config.challenge.model_copy(update={"max_bytes": (tmp_path / "model.pt").stat().st_size - 1})
    with pytest.raises(InputError, match=r"model\.pt"):
        open_target(limit)


def test_what_is_not_named_or_not_there_is_said(tmp_path: Path):
    config = challenge(tmp_path)
    unnamed = config.challenge.model_copy(update={"public": None})
    with pytest.raises(
        InputError, match=r"challenge\.public: not set; give the file in --config .* or with --challenge"
    ):
        open_pool(unnamed)
    (tmp_path / "model.pt").unlink()
    with pytest.raises(InputError, match=r"model\.pt: no such file \(challenge\.target\)"):
        open_target(config.challenge)


def test_a_run_that_is_finished_is_not_repeated(tmp_path: Path, records: Records):
    config, out = challenge(tmp_path), tmp_path / "run"
    first = run(config, out)
    before = {path: path.read_bytes() for path in (out / "shadows").iterdir()}
    records.clear()
    assert run(config, out) == first
    assert {path: path.read_bytes() for path in (out / "shadows").iterdir()} == before
    assert telling(records, "shadows", "all 8", "exist") and telling(records, "target", "exist")


@pytest.mark.parametrize("trained", [False, True])
def test_checkpoints_that_a_killed_process_left_behind_are_removed(tmp_path: Path, trained: bool):
    """Of models that are stored, and of a save whose threads created the folder anew once it had been removed."""
    config, out = challenge(tmp_path), tmp_path / "run"
    if trained:
        train(config, out)
        cache_key = ScoreStore(out / "shadows").index()[0].metadata["cache_key"]
        stored = out / "checkpoints" / "00000-00001"
        stored.mkdir(parents=True)
        (stored / "about.json").write_text(json.dumps({"models": [0, 1], "cache_key": cache_key}))
    (out / "checkpoints" / "00002-00003" / "9.orbax-checkpoint-tmp").mkdir(parents=True)
    train(config, out)
    assert list((out / "checkpoints").iterdir()) == []


def test_models_beyond_a_smaller_count_are_told(tmp_path: Path, records: Records):
    config, out = challenge(tmp_path), tmp_path / "run"
    train(config, out)
    assert not telling(records, "beyond shadow.count")
    train(config.model_copy(update={"shadow": config.shadow.model_copy(update={"count": 3})}), out)
    assert telling(records, "shadows: models 3-7 are beyond shadow.count: 3", "scored with the others") == ["WARNING"]


def test_too_few_models_to_select_an_attack_are_refused_before_any_is_trained(tmp_path: Path):
    config, out = challenge(tmp_path), tmp_path / "run"
    few = config.model_copy(
        update={"shadow": config.shadow.model_copy(update={"count": 3}), "attack": AttackConfig(name="auto")}
    )
    with pytest.raises(
        InputError, match=r"^shadow\.count: 3 is too few for attack\.name: auto, which needs at least 4;"
    ):
        run(few, out)
    assert not out.exists()
    train(config, out)
    assert run(few, out).models == 8


def test_a_run_that_a_checkpoint_refuses_leaves_no_configuration(tmp_path: Path):
    config, out = challenge(tmp_path), tmp_path / "run"
    about = out / "checkpoints" / "00000-00001" / "about.json"
    about.parent.mkdir(parents=True)
    about.write_text(json.dumps({"models": [0, 1], "cache_key": {"seed": 4}}))
    with pytest.raises(InputError, match="00000-00001: was created with another configuration: "):
        run(config, out)
    assert [path.name for path in out.iterdir()] == ["checkpoints"]


KNOWING = {"architecture": "mlp", "width": 8, "count": 16, "epochs": 3, "batch_size": 8, "known": 0.5}


def test_what_is_told_trains_every_shadow_or_none_and_is_not_scored(tmp_path: Path):
    """Attacks, figures, epsilon and promises are those of the free samples alone, as if there were no others.

    Only whether the target is unlike its shadows is seen on the others too.
    """
    path = make_challenge(tmp_path, make_pool(count=240), shadow=KNOWING, attack={"name": "auto"}, seed=3)
    out = tmp_path / "run"
    metrics = run(load_config(path), out)

    pool, stored = Pool.load(out / "pool.npz"), ScoreStore(out / "shadows").read()
    masks = Masks.knowing(3, pool.membership, 0.5)
    told = ~masks.free
    assert metrics.fixed == told.sum() == 60
    assert (stored.mask[:, told] == (pool.membership[told] == 1)).all()
    assert metrics.public is not None
    assert metrics.public.members + metrics.public.nonmembers == (pool.public & masks.free).sum()

    target = load_npz(out / "target.npz")["phi"]
    everyone = Evidence(target, stored.phi, stored.mask, pool.labels)
    evidence = everyone.take(np.flatnonzero(masks.free))
    fixed = evidence_on_fixed(target, stored.phi[:, :1], stored.mask, pool.labels, masks.free)
    likeness = likeness_to_shadows(evidence, fixed)
    selection = select_attack(evidence, load_config(path).attack, likeness=likeness)
    assert selection.chosen.name == metrics.attack
    scores = load_npz(out / "scores.npz")
    for name, values in scores.items():
        assert np.isnan(values[told]).all(), name
        assert np.isfinite(values[masks.free]).all(), name
    np.testing.assert_allclose(scores[metrics.attack][masks.free], selection.chosen(evidence))
    ids, submitted = read_scores_csv(out / "submission.csv")
    assert sorted(ids) == sorted(pool.ids[~pool.public])
    assert np.isfinite(submitted).all()
    with (out / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["fixed"] for row in rows] == [str(int(value)) for value in told]
    assert [row["score"] == "" for row in rows] == told.tolist()
    page = (out / "report.html").read_text()
    assert "The memberships of 60 public samples were fixed" in page
    assert run(load_config(path), out) == metrics, "reads back what it wrote"


def test_models_that_knew_something_else_are_refused_by_name(tmp_path: Path):
    path = make_challenge(tmp_path, make_pool(count=240), shadow=KNOWING, seed=3)
    config, out = load_config(path), tmp_path / "run"
    run(config, out)
    less = config.model_copy(update={"shadow": config.shadow.model_copy(update={"known": 0.25})})
    with pytest.raises(
        InputError, match=r"shadow\.known is 0\.5 there and 0\.25 here, the memberships that are known differ"
    ):
        run(less, out)
    pool = Pool.load(out / "pool.npz")
    flipped = np.where(pool.public, 1 - pool.membership, pool.membership).astype(np.int8)
    Pool(None, pool.labels, pool.ids, flipped).save(out / "pool.npz")
    with pytest.raises(InputError, match=r"shadows: the fixed memberships of these models differ from .*pool\.npz"):
        score(out, config.attack)


def test_a_second_configuration_is_refused_while_another_process_trains(tmp_path: Path):
    """Before the first chunk or checkpoint is stored nothing else tells them apart."""
    config, out = challenge(tmp_path), tmp_path / "run"
    more = config.shadow.model_copy(update={"count": config.shadow.count + 8})
    wanted = r"process \d+ of \S+ trains here with another configuration: seed is 3 there and 8 here; use another --out"
    with Pipeline(config, out).prepared():
        before = (out / "config.yaml").read_bytes()
        with pytest.raises(InputError, match=wanted):
            run(config.model_copy(update={"seed": 8}), out)
        assert (out / "config.yaml").read_bytes() == before
        with Pipeline(config.model_copy(update={"shadow": more}), out).prepared():
            pass
    with Pipeline(config.model_copy(update={"seed": 8}), out).prepared():
        assert load_config(out / "config.yaml").seed == 8


def test_a_file_in_place_of_the_folder_of_results_is_named(tmp_path: Path):
    (tmp_path / "own.yaml").write_text("{}")
    with pytest.raises(InputError, match=r"own\.yaml: is a file, expected the folder of the results"):
        run(challenge(tmp_path), tmp_path / "own.yaml")
