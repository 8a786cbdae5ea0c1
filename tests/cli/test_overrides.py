from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxmia.cli.overrides import configure, split_overrides
from jaxmia.config import Config, parse_config
from jaxmia.errors import InputError, UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "my.yaml"
    file.write_text("shadow: {count: 5, epochs: 100, augment: {crop: 2}}\n")
    return file


@pytest.mark.parametrize(
    ("arguments", "own", "overrides"),
    [
        ("--config a.yaml --out b", "--config a.yaml --out b", ""),
        ("--config a.yaml --shadow.count 3 --out b", "--config a.yaml --out b", "--shadow.count 3"),
        ("--seed 3 --out runs/a.b", "--out runs/a.b", "--seed 3"),
        ("--seed=3 --out=runs/a.b --json", "--out=runs/a.b --json", "--seed=3"),
        (
            "--challenge.mean 0.1 0.2 --shadow.warmup-epochs -1",
            "",
            "--challenge.mean 0.1 0.2 --shadow.warmup-epochs -1",
        ),
        ("--shadow.count 3 -h", "-h", "--shadow.count 3"),
    ],
)
def test_fields_are_told_from_a_commands_own_options(arguments: str, own: str, overrides: str):
    assert split_overrides(arguments.split()) == (own.split(), overrides.split())


@pytest.mark.parametrize(
    ("overrides", "content"),
    [
        ([], {}),
        (["--shadow.count", "3"], {"shadow": {"count": 3}}),
        (["--shadow.count=3"], {"shadow": {"count": 3}}),
        (["--shadow.count", "3", "--shadow.count", "4"], {"shadow": {"count": 4}}),
        (["--shadow.warmup-epochs", "1.5"], {"shadow": {"warmup_epochs": 1.5}}),
        (["--shadow.learning_rate", "1e-3"], {"shadow": {"learning_rate": 0.001}}),
        (["--shadow.augment.flip", "true"], {"shadow": {"augment": {"flip": True}}}),
        (["--shadow.augment", "{flip: true, crop: 1}"], {"shadow": {"augment": {"flip": True, "crop": 1}}}),
        (["--challenge.mean", "0.1", "0.2", "0.3"], {"challenge": {"mean": [0.1, 0.2, 0.3]}}),
        (["--challenge.mean", "[0.1, 0.2]"], {"challenge": {"mean": [0.1, 0.2]}}),
        (["--challenge.mean", "0.1"], {"challenge": {"mean": [0.1]}}),
        (["--query.views", "identity"], {"query": {"views": ["identity"]}}),
        (["--shadow.width", "null"], {"shadow": {"width": None}}),
        (["--challenge.public", "/data/my pub.pt"], {"challenge": {"public": "/data/my pub.pt"}}),
        (["--challenge.public", "a #b.pt"], {"challenge": {"public": "a #b.pt"}}),
        (["--challenge.public=2024"], {"challenge": {"public": "2024"}}),
        (["--challenge.private", "[x].pt"], {"challenge": {"private": "[x].pt"}}),
        (["--challenge.target", "~"], {"challenge": {"target": "~"}}),
        (["--challenge.target", "null"], {"challenge": {"target": None}}),
        (["--seed", "9", "--ensemble.devices", "all"], {"seed": 9, "ensemble": {"devices": "all"}}),
    ],
)
def test_an_override_says_what_yaml_would(overrides: list[str], content: dict):
    assert configure(None, overrides) == parse_config(content, "")


def test_a_file_keeps_what_is_not_overridden(path: Path):
    config = configure(path, ["--shadow.augment.flip", "true", "--ensemble.width", "3"])
    assert (config.shadow.count, config.shadow.augment.crop, config.shadow.augment.flip) == (5, 2, True)
    assert config.ensemble.width == 3


def test_an_override_is_judged_together_with_the_file(path: Path):
    """70 epochs of warm-up are too many for the default of 60, but not for the file's 100."""
    assert configure(path, ["--shadow.warmup_epochs", "70"]).shadow.warmup_epochs == 70
    with pytest.raises(
        UsageError, match=r"command line: shadow\.warmup_epochs: 100\.0 is not less than epochs \(100\)"
    ):
        configure(path, ["--shadow.warmup_epochs", "100"])


def test_an_override_may_mend_the_file(path: Path):
    path.write_text("shadow: {count: 0}")
    assert configure(path, ["--shadow.count", "2"]).shadow.count == 2
    with pytest.raises(InputError, match=r"my\.yaml: shadow\.count: 0 must be greater"):
        configure(path, ["--shadow.epochs", "2"])


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["--shadow.cuont", "3"], r"command line: shadow\.cuont: unknown key; did you mean 'count'\?"),
        (["--shdow.count", "3"], r"command line: shdow: unknown key; did you mean 'shadow'\?"),
        (["--shadow.count"], r"--shadow\.count: expected a value"),
        (["--shadow.count", "--shadow.epochs", "3"], r"--shadow\.count: expected a value"),
        (["--shadow.count", "0"], r"shadow\.count: 0 must be greater than or equal to 1"),
        (["--shadow.count", "3", "4"], r"shadow\.count: \[3, 4\] must be a valid integer"),
        (["--shadow.count="], r"shadow\.count: None must be a valid integer"),
        (["--shadow.optimizer", "on"], r"shadow\.optimizer: True must not be true or false"),
        (["--shadow.count", "[3"], r"--shadow\.count: '\[3' is not a valid value"),
        (["--shadow.count", "[" * 5000], r"--shadow\.count: '\[+' is not a valid value"),
        (["--shadow.count", "9" * 5000], r"--shadow\.count: '9+' is not a valid value"),
        (["--shadow", "3"], "shadow: 3 must be a mapping of fields to values"),
        (["--seed", "1", "--seed.a", "2"], r"--seed\.a: seed already has a value"),
        (["--.", "1"], "command line: '': unknown key"),
    ],
)
def test_a_bad_override_is_named(overrides: list[str], complaint: str):
    with pytest.raises(UsageError, match=complaint) as caught:
        configure(None, overrides)
    assert "\n" not in str(caught.value)


def test_every_bad_override_is_named_at_once():
    with pytest.raises(UsageError) as caught:
        configure(None, ["--shadow.count", "0", "--shadow.epochs", "many", "--seed", "-1"])
    assert [line.split(": ")[1] for line in str(caught.value).split("\n")] == ["shadow.count", "shadow.epochs", "seed"]


@pytest.mark.parametrize("word", ["null", "none", "None", "~"])
def test_a_field_may_be_set_to_nothing(word: str):
    assert configure(None, ["--challenge.image_size", word, "--shadow.width", word]) == Config()


WORDS = st.one_of(
    st.sampled_from(
        ["--shadow.count", "--shadow.augment.crop", "--seed", "--challenge.mean", "--query.views=identity", "--seed=1"]
    ),
    st.sampled_from(
        ["1", "0.5", "true", "null", "identity", "[1, 2]", "{crop: 1}", "!!python/none x", "*a", "2024-99-99"]
    ),
    st.text(max_size=8),
    st.text(max_size=8).map("--{}".format),
    st.text(max_size=8).map("--shadow.{}".format),
)


@given(st.lists(WORDS, max_size=6))
@example(["--shadow.augment.crop", "1", "--shadow.augment", "2", "--shadow.augment.flip", "true"])
@settings(max_examples=500)
def test_any_command_line_is_a_configuration_or_an_error_of_ours(words: list[str]):
    own, overrides = split_overrides(words)
    assert sorted([*own, *overrides]) == sorted(words)
    try:
        assert isinstance(configure(None, overrides), Config)
    except (InputError, UsageError) as error:
        assert str(error)
