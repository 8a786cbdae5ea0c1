import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmia.cli.commands.run import Query, Run, Train
from jaxmia.config import AttackConfig
from jaxmia.data.augment import apply_view
from jaxmia.data.pool import Pool
from jaxmia.data.views import views
from jaxmia.errors import InputError
from jaxmia.files import load_npz
from jaxmia.pipeline.scoring import score
from jaxmia.runs.signals import Interrupted
from jaxmia.runs.store import ScoreStore, read_chunk
from tests.challenge import make_challenge, make_pool

OTHER = ["--query.views", "identity", "vflip", "rot90"]
KEEP = ["--ensemble.keep_weights", "true"]


def all_chunks(out: Path):
    return {path.name: read_chunk(path) for path in sorted((out / "shadows").glob("*.npz"))}


def contents(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration; beside it `kept`, a run of eight shadows that kept their weights, in two views."""
    folder = tmp_path_factory.mktemp("challenge")
    config = make_challenge(folder)
    train(config, folder / "kept", KEEP)
    return config


@pytest.fixture
def kept(challenge: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(challenge.parent / "kept", tmp_path / "kept"))


def train(config: Path, out: Path, overrides: Sequence[str] = ()) -> None:
    Query(out, config)(overrides)
    Train(out, config)(overrides)


def ask(config: Path, out: Path, overrides: Sequence[str] = (), shadows: Path | None = None) -> None:
    Query(out, config, shadows)(overrides)


def assert_same(found: Path, expected: Path) -> None:
    """Margins, masks, accuracies, curves, and what was asked."""
    chunks, wanted = all_chunks(found), all_chunks(expected)
    assert chunks.keys() == wanted.keys()
    for name, chunk in wanted.items():
        for field in ("model", "mask", "phi", "accuracy", "accuracy_in"):
            np.testing.assert_array_equal(getattr(chunks[name], field), getattr(chunk, field), err_msg=name)
        np.testing.assert_array_equal(chunks[name].extra["curve"], chunk.extra["curve"])
        assert chunks[name].metadata["cache_key"] == chunk.metadata["cache_key"]
    np.testing.assert_array_equal(load_npz(found / "target.npz")["phi"], load_npz(expected / "target.npz")["phi"])


def test_asking_again_equals_a_run_with_those_views_from_the_start(challenge: Path, kept: Path, tmp_path: Path):
    train(challenge, tmp_path / "fresh", OTHER)
    before = all_chunks(kept)
    ask(challenge, kept, OTHER)
    assert_same(kept, tmp_path / "fresh")
    for name, chunk in all_chunks(kept).items():
        assert chunk.phi.shape[1] == 3
        assert chunk.metadata["train_seconds"] == before[name].metadata["train_seconds"], "nothing is trained"
    ask(challenge, kept)
    np.testing.assert_array_equal(all_chunks(kept)["00000-00001.npz"].phi, before["00000-00001.npz"].phi)


def test_a_run_asks_kept_shadows_again_and_goes_on(challenge: Path, kept: Path, tmp_path: Path):
    """More models and other views at once."""
    more = [*OTHER, "--shadow.count", "10"]
    Run(kept, challenge)([*more, *KEEP])
    train(challenge, tmp_path / "fresh", more)
    assert_same(kept, tmp_path / "fresh")
    assert (kept / "submission.csv").exists()


def test_another_folder_takes_the_answers_and_the_run_stays_as_it_was(challenge: Path, kept: Path, tmp_path: Path):
    before = contents(kept)
    ask(challenge, tmp_path / "other", OTHER, kept)
    assert contents(kept) == before
    train(challenge, tmp_path / "fresh", OTHER)
    assert_same(tmp_path / "other", tmp_path / "fresh")
    train(challenge, tmp_path / "other", [*OTHER, "--shadow.count", "10"])
    assert len(all_chunks(tmp_path / "other")) == 5, "it is a run as any other"


def test_other_samples_are_out_unless_a_shadow_was_trained_on_their_image(challenge: Path, kept: Path, tmp_path: Path):
    old, new = make_pool(), make_pool(seed=1)
    assert old.images is not None and new.images is not None
    mixed = Pool(
        np.concatenate([new.images[:50], old.images[20:50]]),
        np.concatenate([new.labels[:50], old.labels[20:50]]),
        new.ids,
        new.membership,
    )
    config = make_challenge(tmp_path / "new", mixed)
    ask(config, tmp_path / "out", [], kept)
    for name, chunk in all_chunks(tmp_path / "out").items():
        before = all_chunks(kept)[name]
        assert not chunk.mask[:, :50].any()
        np.testing.assert_array_equal(chunk.mask[:, 50:], before.mask[:, 20:50])
        np.testing.assert_allclose(chunk.phi[:, :, 50:], before.phi[:, :, 20:50], atol=1e-5)
        assert chunk.metadata["cache_key"]["trained_on"] == before.metadata["cache_key"]["pool"]
    match = r"00000-00001\.npz: was created with another configuration: trained_on is '\w+' "
    with pytest.raises(InputError, match=match):
        Train(tmp_path / "out", config)([])


def test_fixed_memberships_are_matched_by_sample(tmp_path: Path):
    """By default nine tenths of the public memberships are fixed; now there are fewer private samples, and new ones."""
    old, new = make_pool(), make_pool(seed=1)
    config = make_challenge(tmp_path / "old", old, shadow={"known": 0.9})
    train(config, tmp_path / "kept", KEEP)
    order = np.r_[10:40, 45:60]  # the first ten public samples are new ones, and so are the last five
    assert old.images is not None and new.images is not None
    mixed = Pool(
        np.concatenate([new.images[:10], old.images[order], new.images[:5]]),
        np.concatenate([new.labels[:10], old.labels[order], new.labels[:5]]),
        np.arange(60).astype(str),
        np.r_[new.membership[:10], old.membership[order], np.full(5, -1)].astype(np.int8),
    )
    other = make_challenge(tmp_path / "new", mixed, shadow={"known": 0.9})
    ask(other, tmp_path / "out", [], tmp_path / "kept")
    before, after = (ScoreStore(tmp_path / name / "shadows").read() for name in ("kept", "out"))
    assert before.free is not None and after.free is not None
    assert (~before.free).sum() == 36
    np.testing.assert_array_equal(after.free, np.r_[np.ones(10, bool), before.free[order], np.ones(5, bool)])
    np.testing.assert_array_equal(after.mask[:, 10:55], before.mask[:, order])
    assert score(tmp_path / "out", AttackConfig(name="calibrated")).fixed == (~after.free).sum()

    ask(config, tmp_path / "views", OTHER, tmp_path / "kept")
    same = ScoreStore(tmp_path / "views" / "shadows").read()
    assert same.phi.shape[1] == 3
    np.testing.assert_array_equal(same.free, before.free)
    np.testing.assert_array_equal(same.mask, before.mask)

    flipped = Pool(mixed.images, mixed.labels, mixed.ids, np.where(mixed.public, 1 - mixed.membership, -1))
    ask(make_challenge(tmp_path / "flipped", flipped, shadow={"known": 0.9}), tmp_path / "none", [], tmp_path / "kept")
    free = ScoreStore(tmp_path / "none" / "shadows").read().free
    assert free is not None and free.all(), "no membership is that which was fixed"


def test_what_is_asked_already_is_left(challenge: Path, kept: Path):
    before = contents(kept / "shadows")
    ask(challenge, kept)
    assert contents(kept / "shadows") == before


def test_stopped_between_chunks_it_goes_on_with_the_rest(
    challenge: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from jaxmia.training import chunk as shadows

    asked = []

    def stop_in_the_third(self, together, state, leave):
        asked.append(together)
        if len(asked) == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(self, together, state, leave)

    original = shadows.ShadowTrainer.query
    with monkeypatch.context() as patched:
        patched.setattr(shadows.ShadowTrainer, "query", stop_in_the_third)
        with pytest.raises(Interrupted, match="stopped by SIGTERM; the same command resumes"):
            ask(challenge, kept, OTHER)
    assert [chunk.phi.shape[1] for chunk in all_chunks(kept).values()] == [3, 3, 2, 2]
    ask(challenge, kept, OTHER)
    train(challenge, tmp_path / "fresh", OTHER)
    assert_same(kept, tmp_path / "fresh")


def changed_weight(kept: Path) -> None:
    path = kept / "weights" / "00002-00003.npz"
    arrays = load_npz(path)
    name = next(name for name in arrays if name.startswith("params"))
    np.savez(path, **{**arrays, name: arrays[name] + 1})


def other_models(kept: Path) -> None:
    shutil.copy(kept / "weights" / "00004-00005.npz", kept / "weights" / "00002-00003.npz")


def half_a_file(kept: Path) -> None:
    path = kept / "weights" / "00002-00003.npz"
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (changed_weight, "contains other weights than those whose margins are stored"),
        (other_models, r"contains models \[4, 5\], expected \[2, 3\]"),
        (half_a_file, r"cannot be read as \.npz"),
        (lambda kept: (kept / "weights" / "00002-00003.npz").unlink(), "no such file"),
    ],
)
def test_weights_that_are_not_the_shadows_own_are_refused(challenge: Path, kept: Path, harm, complaint: str):
    harm(kept)
    with pytest.raises(InputError, match=rf"weights/00002-00003\.npz: {complaint}"):
        ask(challenge, kept, OTHER)
    assert [chunk.phi.shape[1] for chunk in all_chunks(kept).values()] == [3, 2, 2, 2], "the others are whole"


@pytest.mark.parametrize("command", [Query, Train, Run])
@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        (["--shadow.epochs", "21"], r"shadow\.epochs is 20 there and 21 here"),
        (["--seed", "7"], "seed is 0 there and 7 here"),
        (["--shadow.width", "9", *OTHER], r"shadow\.width is 8 there and 9 here"),
    ],
)
def test_another_configuration_is_refused_before_anything_is_written(
    challenge: Path, kept: Path, command, changes: list[str], difference: str
):
    before = contents(kept)
    match = rf"was created with another configuration: {difference}; only the views of trained models can"
    with pytest.raises(InputError, match=rf"00000-00001\.npz: {match}"):
        command(config=challenge, out=kept)(changes)
    assert contents(kept) == before


def test_without_weights_other_views_are_refused_before_anything_is_written(challenge: Path, tmp_path: Path):
    out = tmp_path / "run"
    train(challenge, out)
    before = contents(out)
    for command in (Query, Train, Run):
        with pytest.raises(InputError, match=r"00000-00001\.npz: was queried in other views .* weights were not kept"):
            command(config=challenge, out=out)(OTHER)
    assert contents(out) == before


def test_jobs_beside_each_other_leave_asking_again_to_query(challenge: Path, kept: Path):
    with pytest.raises(InputError, match=r"00000-00001\.npz: was queried in other views; `jaxmia query` with the same"):
        Train(kept, challenge, "1/2")(OTHER)


def test_of_another_run_only_what_is_asked_may_differ(challenge: Path, kept: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"seed is 0 there and 3 here; only the views and the samples of trained"):
        ask(challenge, tmp_path / "out", ["--seed", "3"], kept)
    with pytest.raises(InputError, match=r"nowhere/shadows: contains no trained shadow models .* to query again"):
        ask(challenge, tmp_path / "out", [], tmp_path / "nowhere")
    large = make_challenge(tmp_path / "large", make_pool(seed=2, side=7))
    with pytest.raises(InputError, match=r"images are \[7, 7, 1\] .*, those that .* were trained on \[6, 6, 1\]"):
        ask(large, tmp_path / "out", [], kept)


def test_the_samples_that_shadows_were_trained_on_must_be_known(tmp_path: Path):
    """The files of the challenge are other ones now."""
    config = make_challenge(tmp_path / "a")
    train(config, tmp_path / "run", KEEP)
    other = make_challenge(tmp_path / "b", make_pool(seed=3))
    make_challenge(tmp_path / "a", make_pool(seed=4))
    with pytest.raises(InputError, match=r"config\.yaml: challenge: its files contain other samples than those"):
        ask(other, tmp_path / "out", [], tmp_path / "run")


def test_a_view_of_the_pool_is_a_pool(challenge: Path, kept: Path, tmp_path: Path):
    """Asking about flipped images is asking in the flipped view."""
    pool = make_pool()
    assert pool.images is not None
    flipped = np.asarray(apply_view(jnp.asarray(pool.images), views(("identity", "hflip"))[1]))
    config = make_challenge(tmp_path / "new", Pool(flipped, pool.labels, pool.ids, pool.membership))
    ask(config, tmp_path / "out", [], kept)
    for name, chunk in all_chunks(tmp_path / "out").items():
        np.testing.assert_allclose(chunk.phi[:, 0], all_chunks(kept)[name].phi[:, 1], atol=1e-5)
