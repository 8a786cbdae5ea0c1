import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from jaxmia.cli.commands.status import ShowStatus, describe
from jaxmia.data.masks import Masks
from jaxmia.errors import InputError
from jaxmia.runs.claims import Claims
from jaxmia.runs.search import write_wanted
from jaxmia.runs.status import enough, missing_models, ranges, read_status
from jaxmia.runs.store import ScoreStore
from tests.conftest import make_chunk

MOSTLY = "enough to score: 1 of 30 samples lack IN or OUT models, and more models would leave none"
MADE = {"trained_images": 6000, "trained_together": 3, "train_seconds": 20.0}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Ten models are asked for; three are stored in 20 s, two half trained elsewhere at 500 images/s."""
    (tmp_path / "config.yaml").write_text("shadow: {count: 10}")
    ScoreStore(tmp_path / "shadows").write(make_chunk([0, 1, 2], metadata=MADE))
    with Claims(tmp_path / "claims").acquire([3, 4]):
        (claim,) = Claims(tmp_path / "claims").others()
    progress = {"stage": "training", "done": 1000, "total": 4000, "images_per_second": 500.0, "loss": float("nan")}
    far = replace(claim, machine="another", host="far", pid=7, progress=progress)
    (tmp_path / "claims" / "00003-00004.json").write_text(json.dumps(asdict(far)))
    return tmp_path


def test_what_is_done_running_and_missing(run: Path):
    status = read_status(run)
    assert (status.count, status.done, status.running, status.missing) == (10, [0, 1, 2], [3, 4], [5, 6, 7, 8, 9])
    assert status.images_per_second == 500
    assert status.seconds_left == (3000 + 5 * 2000) / 500
    assert missing_models(run, {0, 1, 2}) == list(range(3, 10))


def test_where_nobody_trains_the_stored_chunks_tell_the_speed(run: Path):
    (run / "claims" / "00003-00004.json").unlink()
    status = read_status(run)
    assert status.missing == list(range(3, 10))
    assert status.images_per_second == 300
    assert status.seconds_left == 7 * 2000 / 300


def test_without_a_configuration_nothing_is_missing(run: Path):
    (run / "config.yaml").unlink()
    assert read_status(run).count is None
    assert read_status(run).missing == missing_models(run, set()) == []


def test_a_damaged_file_is_named_and_left(run: Path):
    path = run / "shadows" / "00005-00006.npz"
    path.write_text("half")
    assert read_status(run).damaged == [str(path)]
    assert path.exists()


def test_an_empty_folder_and_none(tmp_path: Path):
    status = read_status(tmp_path)
    assert (status.done, status.images_per_second, status.seconds_left) == ([], None, None)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        read_status(tmp_path / "nowhere")


def test_the_command(run: Path, capsys: pytest.CaptureFixture):
    ShowStatus(run)([])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "done:    3 of 10 models"
    assert re.fullmatch(r"running: 3-4 by process 7 on far: training 25 %, last seen \d+ s ago", shown[1])
    assert shown[2:] == [
        "missing: 5-9",
        "models:  too few for attacks that use shadows: 6 of 30 samples have no OUT model",
        "speed:   500 images/s",
        "left:    0:00:26",
    ]
    ShowStatus(run, json=True)([])
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told["jobs"][0]["loss"] is None, "before the first epoch is over there is none"
    assert told["missing"] == [5, 6, 7, 8, 9]
    assert told["jobs"][0]["host"] == "far"


def test_models_beyond_the_configuration_are_told(run: Path):
    (run / "config.yaml").write_text("shadow: {count: 2}")
    assert describe(read_status(run))[0] == "done:    3 models, 1 more than shadow.count"


def test_the_fewest_models_of_a_sample_are_counted_over_all_files(tmp_path: Path):
    """Model 2 is in two files and counts once; a file of another pool, or a damaged one, does not count."""
    store = ScoreStore(tmp_path / "shadows")
    masks = np.random.default_rng(0).random((6, 30)) < 0.5
    for models in ([0, 1, 2], [2, 3], [4, 5]):
        store.write(make_chunk(models, mask=masks[models]))
    store.write(make_chunk([8, 9], samples=31))
    (store.folder / "00010-00011.npz").write_text("half")
    inside, outside = store.counts()
    np.testing.assert_array_equal(inside, masks.sum(0))
    np.testing.assert_array_equal(outside, (~masks).sum(0))
    status = read_status(tmp_path)
    assert (status.fewest_in, status.fewest_out) == (masks.sum(0).min(), (~masks).sum(0).min())


@pytest.mark.parametrize(
    ("inside", "outside", "words"),
    [
        ([3] * 30, [2] * 30, "enough to score: each sample has at least 3 IN and 2 OUT"),
        ([0] + [4] * 29, [4] * 30, MOSTLY),
        ([0] * 3 + [4] * 27, [4] * 30, "enough for offline attacks only: 3 of 30 samples have no IN model"),
        ([4] * 30, [4] * 28 + [0] * 2, "too few for attacks that use shadows: 2 of 30 samples have no OUT model"),
        ([], [], "too few for attacks that use shadows: there are none"),
    ],
)  # fmt: skip
def test_whether_there_are_enough(inside: list[int], outside: list[int], words: str):
    assert enough(np.array(inside), np.array(outside)) == words


def test_samples_whose_membership_is_taken_as_told_need_no_models(tmp_path: Path):
    """Every model has a told member IN, but none is to be scored by that."""
    membership = np.repeat(np.array([1, 0, -1], np.int8), 20)
    masks = Masks.knowing(3, membership, 0.5)
    mask = masks(range(8))
    mask[:, masks.free] = np.arange(8)[:, None] % 2 == 0
    ScoreStore(tmp_path / "shadows").write(replace(make_chunk(range(8), mask=mask), free=masks.free))
    status = read_status(tmp_path)
    assert (status.fewest_in, status.fewest_out) == (4, 4)
    assert status.enough == "enough to score: each sample has at least 4 IN and 4 OUT"


def test_numbers_in_words():
    assert ranges([]) == ""
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert ranges(list(range(0, 4_000_000, 2))).endswith(", 196, 198 and 1,999,900 more")


STRANGE = (None, [], {}, "x", "\x1b[2J", -1, 1.5, 10**30, float("inf"), float("nan"), True, [[]])


def assert_told(run: Path) -> None:
    lines = describe(read_status(run))
    assert lines[0] == "done:    3 of 10 models"
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "field", ["models", "host", "pid", "machine", "started", "token", "heartbeat", "progress", "?"]
)
@pytest.mark.parametrize("value", STRANGE, ids=str)
def test_a_claim_with_anything_in_a_field_is_read_or_ignored(run: Path, field: str, value: object):
    path = run / "claims" / "00003-00004.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    assert_told(run)


@pytest.mark.parametrize("field", ["stage", "done", "total", "images_per_second", "models", "host", "silent_seconds"])
@pytest.mark.parametrize("value", STRANGE, ids=str)
def test_a_claim_that_tells_strange_progress_is_read(run: Path, field: str, value: object):
    path = run / "claims" / "00003-00004.json"
    claim = json.loads(path.read_text())
    path.write_text(json.dumps({**claim, "progress": {**claim["progress"], field: value}}))
    assert_told(run)
    assert read_status(run).running == [3, 4]


@pytest.mark.parametrize("content", ["null", "3", "[]", "[" * 10**5, '"x"', "\x00"])
def test_a_claim_that_is_something_else_is_ignored(run: Path, content: str):
    (run / "claims" / "00003-00004.json").write_text(content)
    assert_told(run)


@pytest.mark.parametrize("field", ["trained_images", "trained_together", "train_seconds"])
@pytest.mark.parametrize("value", [*STRANGE, 0, 1e-300], ids=str)
def test_metadata_that_is_strange_tells_no_speed(run: Path, field: str, value: object):
    ScoreStore(run / "shadows").write(make_chunk([0, 1, 2], metadata={**MADE, field: value}))
    assert_told(run)


@pytest.mark.parametrize("damage", [None, "", "[]", "3", '{"models": 3}', '{"models": [[0]]}', '{"models": ["x"]}'])
def test_what_is_saved_of_models_in_training_is_told(run: Path, damage: str | None):
    about = run / "checkpoints" / "00005-00007" / "about.json"
    for step in ("25", "24", "26.orbax-checkpoint-tmp", "23.damaged"):
        (about.parent / step).mkdir(parents=True)
    about.write_text('{"cache_key": {}, "models": [2, 5, 6, 7]}' if damage is None else damage)
    status = read_status(run)
    assert status.saved == ([] if damage is not None else [{"models": [5, 6, 7], "step": 25}])
    line = "saved:   5-7 at step 25; the same command resumes there"
    assert (line in describe(status)) == (damage is None)


@pytest.fixture
def search(tmp_path: Path) -> Path:
    """A search for three recipes of two models, of which three models are trained, after one that wanted others."""
    write_wanted(tmp_path, ["aa", "bb", "cc"], 2)
    for name in ("aa-00000", "aa-00001", "bb-00001", "bb-00002", "dd-00000"):
        (tmp_path / "match" / f"{name}.npz").touch()
    recipe = {"epochs": 12, "learning_rate": 0.05, "augment": {"crop": 4, "flip": True}, "width": None}
    trials = [{"recipe": recipe, "energy_score": 0.375, "std_error": 0.046}, {"recipe": {}, "energy_score": None}]
    (tmp_path / "match.json").write_text(json.dumps({"models": 2, "trials": trials}))
    return tmp_path


def test_the_progress_of_a_search(search: Path, capsys: pytest.CaptureFixture):
    best = "epochs 12, learning_rate 0.05, augment crop 4 flip, width default; energy score 0.375 ± 0.046 nats"
    trained = "search:  3 of 6 models are trained, all of 1 of 3 recipes; the same command resumes there"
    assert describe(read_status(search)) == [trained, f"best so far: {best}"]
    ShowStatus(search, json=True)([])
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["search"]
    counts = {"models": 6, "models_done": 3, "recipes": 3, "recipes_done": 1}
    assert told == {**counts, "best": json.loads((search / "match.json").read_text())["trials"][0]}
    for name in ("bb-00000", "cc-00000", "cc-00001"):
        (search / "match" / f"{name}.npz").touch()
    done = ["search:  6 of 6 models are trained, all of 3 of 3 recipes", f"best:    {best}"]
    assert describe(read_status(search)) == done
    (search / "config.yaml").write_text("shadow: {count: 10}")
    assert describe(read_status(search))[0] == "done:    0 of 10 models"
    assert describe(read_status(search))[-2:] == done


@pytest.mark.parametrize(
    "content", ["null", "3", "[]", "[" * 10**5, "{}", "\x00", '{"models": 1e9, "recipes": ["../a"]}']
)
def test_a_search_whose_record_is_damaged_is_none(search: Path, content: str):
    (search / "match" / "search.json").write_text(content)
    assert read_status(search).search is None


@pytest.mark.parametrize("field", ["recipe", "energy_score", "std_error", "epochs", "augment", "\x1b[2J"])
@pytest.mark.parametrize("value", [*STRANGE, 10**400], ids=lambda value: str(value)[:40])
def test_a_ranking_with_anything_in_a_field_is_shown_or_ignored(search: Path, field: str, value: object):
    result = json.loads((search / "match.json").read_text())
    best = result["trials"][0]
    (best if field in best else best["recipe"])[field] = value
    (search / "match.json").write_text(json.dumps(result))
    lines = describe(read_status(search))
    assert lines[0].startswith("search:  3 of 6 models")
    assert all(line.isprintable() for line in lines)
