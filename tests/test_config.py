import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxmia import config as configuration
from jaxmia.config import Augment, Config, Recipe, load_config, parse_config, save_config
from jaxmia.errors import InputError
from jaxmia.files import read_yaml

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text)
    return path


def complaints(text: str) -> list[str]:
    """Lines of the error that a configuration gives, without the file's name."""
    with pytest.raises(InputError) as caught:
        parse_config(yaml.safe_load(text), "my.yaml")
    lines = str(caught.value).split("\n")
    assert all(line.startswith("my.yaml: ") for line in lines)
    return [line.removeprefix("my.yaml: ") for line in lines]


def test_an_empty_file_is_the_defaults(tmp_path: Path):
    assert load_config(write(tmp_path, "")) == load_config(write(tmp_path, "# nothing\n")) == Config()


def test_fields_are_read_and_the_rest_are_defaults(tmp_path: Path):
    text = "shadow: {count: 3, augment: {crop: 2}, milestones: [0.25, 1]}\nensemble:\n  width: 4\nseed: 9\n"
    config = load_config(write(tmp_path, text))
    assert (config.shadow.count, config.shadow.augment.crop, config.shadow.augment.flip) == (3, 2, False)
    assert config.shadow.milestones == (0.25, 1)
    assert (config.ensemble.width, config.ensemble.conv, config.seed) == (4, "auto", 9)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_configurations_that_ship_are_good(path: Path):
    load_config(path)


def test_what_is_saved_is_read_back(tmp_path: Path):
    content = {
        "challenge": {"public": "pub.pt", "image_size": 32, "mean": [0.1, 0.2, 0.3]},
        "shadow": {"learning_rate": 1e-7, "width": 8, "ema": 0.999, "augment": {"flip": True}},
        "ensemble": {"width": 3, "conv": "sequential", "devices": 1},
        "query": {"views": ["identity", "rot90"]},
        "seed": 2**32 - 1,
    }
    for config in (Config(), parse_config(content, "")):
        save_config(config, tmp_path / "config.yaml")
        assert load_config(tmp_path / "config.yaml") == config


def test_every_error_is_told_at_once():
    lines = complaints(
        "shadow: {count: 0, optimizer: sdg, learning_rate: fast, milestones: [0.5, 2], agument: {flip: true}}\n"
        "ensemble: {width: many, conv: fft}\n"
        "seed: -1\n"
        "chalenge: {public: pub.pt}\n"
    )
    assert lines == [
        "shadow.count: 0 must be greater than or equal to 1",
        "shadow.optimizer: 'sdg' must be 'sgd' or 'adamw'",
        "shadow.learning_rate: 'fast' must be a valid number, unable to parse string as a number",
        "shadow.milestones.1: 2 must be less than or equal to 1",
        "shadow.agument: unknown key; did you mean 'augment'?",
        "ensemble.width: 'many' must be a valid integer, unable to parse string as an integer, or must be 'auto'",
        lines[6],
        "seed: -1 must be greater than or equal to 0",
        "chalenge: unknown key; did you mean 'challenge'?",
    ]
    assert lines[6].startswith("ensemble.conv: 'fft' must be ")
    assert "'sequential' or 'auto'" in lines[6]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("shadow: {cuont: 3}", "shadow.cuont: unknown key; did you mean 'count'?"),
        ("shadow: {augment: {fliip: true}}", "shadow.augment.fliip: unknown key; did you mean 'flip'?"),
        ("attack: {xyz: 1}", "attack.xyz: unknown key; allowed are name, candidates, fpr"),
        ("attack: {epsilon_delta: 0}", "attack.epsilon_delta: 0 must be greater than 0"),
        ("attack: {epsilon_delta: 1}", "attack.epsilon_delta: 1 must be less than 1"),
        ("attack: {epsilon_confidence: 95}", "attack.epsilon_confidence: 95 must be less than 1"),
        ("shadow: {integer: 1}", "shadow.integer: unknown key; allowed are architecture, "),
        ("1: 2", "1: 1 must be text to be a key"),
        ('"a\\nb": 2', "'a\\nb': unknown key"),
        ("shadow:", "shadow: None must be a mapping of fields to values"),
        ("shadow: [1, 2]", "shadow: [1, 2] must be a mapping of fields to values"),
        ("shadow: {count: 2.5}", "shadow.count: 2.5 must be a valid integer"),
        ("shadow: {count: [3]}", "shadow.count: [3] must be a valid integer"),
        ("shadow: {count: null}", "shadow.count: None must be a valid integer"),
        ("shadow: {count: on}", "shadow.count: True must not be true or false (nor yes, no, on, off)"),
        (
            "shadow: {architecture: vgg}",
            "shadow.architecture: 'vgg' must be 'mlp', 'cnn', 'resnet8', 'resnet14', 'resnet20', 'resnet18', "
            "'resnet34' or 'wideresnet', or must be 'target', or must be package.module:name",
        ),
        ("shadow: {architecture: 'a b:c'}", "shadow.architecture: 'a b:c' must be 'mlp', "),
        ("shadow: {architecture: no}", "shadow.architecture: False must not be true or false"),
        ("shadow: {learning_rate: yes}", "shadow.learning_rate: True must not be true or false"),
        ("shadow: {epochs: 1e2}", "shadow.epochs: '1e2' must be a valid integer"),
        ("shadow: {learning_rate: .nan}", "shadow.learning_rate: nan must be a finite number"),
        ("shadow: {learning_rate: .inf}", "shadow.learning_rate: inf must be a finite number"),
        ("shadow: {learning_rate: 0}", "shadow.learning_rate: 0 must be greater than 0"),
        ("shadow: {momentum: 1}", "shadow.momentum: 1 must be less than 1"),
        ("shadow: {architecture: wideresnet, depth: 17}", "shadow.depth: 17 is not 6 n + 4 (10, 16, 22, 28, ...)"),
        ("shadow: {epochs: 5, warmup_epochs: 5}", "shadow.warmup_epochs: 5.0 is not less than epochs (5)"),
        ("query: {views: []}", "query.views: [] must begin with identity and name each view once"),
        ("query: {views: [hflip, identity]}", "query.views: ['hflip', 'identity'] must begin with identity"),
        ("query: {views: [identity, identity]}", "query.views: ['identity', 'identity'] must begin with identity"),
        ("query: {views: [identity, auto]}", "query.views: ['identity', 'auto'] must begin with identity"),
        ("query: {views: [auto, auto]}", "query.views: ['auto', 'auto'] must begin with identity"),
        ("query: {views: [identity, flip]}", "query.views.1: 'flip' must be 'identity', 'hflip', "),
        ("challenge: {mean: []}", "challenge.mean: [] must not be empty"),
        ("challenge: {mean: yes}", "challenge.mean: True must not be true or false (nor yes, no, on, off)"),
        ("challenge: {std: [0]}", "challenge.std.0: 0 must be greater than 0"),
        ("challenge: {mean: {red: 1}}", "challenge.mean: {'red': 1} must be a list, as in [1, 2]"),
        ("challenge: {std: [0.1, 0]}", "challenge.std.1: 0 must be greater than 0"),
        ("challenge: {public: 3}", "challenge.public: 3 must be a path"),
        ("seed: 4294967296", "seed: 4294967296 must be less than 4294967296"),
        ("seed: 0x" + "f" * 9000, "seed: a number with too many digits to show must be less than 4294967296"),
        ("shadow: {optimizer: " + "x" * 500 + "}", "shadow.optimizer: 'xxx"),
    ],
)
def test_one_line_says_the_field_the_value_and_what_is_allowed(text: str, complaint: str):
    lines = complaints(text)
    assert len(lines) == 1
    assert lines[0].startswith(complaint)
    assert len(lines[0]) < 400


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("shadow: {learning_rate: 1e-3}", "learning_rate", 1e-3),
        ("shadow: {learning_rate: 5E-2}", "learning_rate", 0.05),
        ("shadow: {count: '12'}", "count", 12),
        ("shadow: {count: 0o14}", "count", None),
        ("shadow: {width: null}", "width", None),
        ("shadow: {width: ~}", "width", None),
        ("shadow: {milestones: 0.5}", "milestones", (0.5,)),
        ("shadow: {milestones: []}", "milestones", ()),
        ("shadow: {decay_norm_and_bias: yes}", "decay_norm_and_bias", True),
    ],
)
def test_what_yaml_takes_for_text_or_for_nothing(text: str, field: str, value: object):
    """PyYAML reads 1e-3 and 0o14 as text: a number where it can only be one, an error else."""
    if text.endswith("0o14}"):
        assert complaints(text)[0].startswith("shadow.count: '0o14' must be a valid integer")
    else:
        assert getattr(parse_config(yaml.safe_load(text), "").shadow, field) == value


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"shadow:\n\tcount: 3\n", "is not valid YAML: .*cannot start any token"),
        (b"shadow: {count: 3\n", "is not valid YAML: .*expected ',' or '}'"),
        (b"a: 1\nb", "is not valid YAML"),
        (b"- shadow\n- seed\n", "contains a list, expected a mapping of fields"),
        (b"hello\n", "contains a str, expected a mapping of fields"),
        (b"3", "contains a int, expected a mapping of fields"),
        (b"a: &a [*a]\nseed: *b\n", "is not valid YAML: .*undefined alias"),
        (
            b"seed: !!python/object/apply:os.system ['false']\n",
            "is not valid YAML: .*could not determine a constructor",
        ),
        (b"seed: 2024-13-45\n", "is not valid YAML: month must be in 1..12"),
        (b"a: " + b"[" * 4000, "is not valid YAML"),
        (b"\xff\xfe\x00", "cannot be read: is not UTF-8 text"),
        (b"\x00", "is not valid YAML: .*special characters are not allowed"),
        (b"seed: " + b"9" * 5000, "is not valid YAML: Exceeds the limit"),
        (b"? [a, b]\n: 1\n", "must be text to be a key|is not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_of_sections_is_named(tmp_path: Path, data: bytes, complaint: str):
    (tmp_path / "my.yaml").write_bytes(data)
    with pytest.raises(InputError, match=rf"my\.yaml: .*({complaint})") as caught:
        load_config(tmp_path / "my.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("shadow:\n  count: 3\n  epochs: 2\n  count: 4\n", "line 4: 'count' was given before, in line 2; keep one"),
        ("shadow: {}\nseed: 1\nshadow: {}\n", "line 3: 'shadow' was given before, in line 1; keep one"),
        ("shadow: {count: 3, 'count': 3}\n", "line 1: 'count' was given before, in line 1; keep one"),
        ("a: [{}, {b: &b {c: 1, c: 1}}]\n", "line 1: 'c' was given before, in line 1; keep one"),
    ],
)
def test_a_key_that_comes_twice_is_refused(tmp_path: Path, text: str, complaint: str):
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    assert str(caught.value) == f"{path}: {complaint}"


def test_a_key_may_override_a_merged_one(tmp_path: Path):
    text = "a: {b: &b {<<: &c {x: 1, y: 1}, x: 2}}\nd: {<<: *b, y: 3}\n"
    assert read_yaml(write(tmp_path, text)) == {"a": {"b": {"x": 2, "y": 1}}, "d": {"x": 2, "y": 3}}


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read: No such file or directory"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


def test_a_value_that_contains_itself_or_explodes_is_one_short_line(tmp_path: Path):
    """Aliases: a list inside of itself, and nine levels of nine, which written out are 400 million entries."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    for text in ("a: &a [*a]\nseed: *a\n", "\n".join([*lines, "seed: *a8"])):
        with pytest.raises(InputError, match=r"line \d: contains more than 20,000 values with all aliases") as caught:
            load_config(write(tmp_path, text))
        assert max(map(len, str(caught.value).split("\n"))) < 1000


def test_every_field_says_what_it_is():
    """The help shows these texts; a field without one is a riddle."""
    source = Path(configuration.__file__).read_text()
    for name, field in Config.model_fields.items():
        section = type(field.default)
        for inner in getattr(section, "model_fields", {}):
            declaration = source.split(f"class {section.__name__}(")[1].split(f"\n    {inner}: ")[1]
            assert declaration.split("\n    ")[1].startswith('"""'), f"{name}.{inner}"


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 5),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.binary(max_size=4),
    st.sampled_from(["auto", "all", "sgd", "identity", "resnet18", "1e-3", "0", "grouped", "a\nb"]),
)
NAMES = st.one_of(
    st.sampled_from(
        [*Config.model_fields, "augment", "width", "count", "views", "mean", "crop", "epochs", "fpr", "name"]
    ),
    st.text(max_size=5),
    st.integers(0, 3),
    st.none(),
)
VALUES = st.recursive(
    SCALARS,
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(NAMES, below, max_size=4)),
    max_leaves=12,
)
SECTIONS = st.dictionaries(
    st.one_of(st.sampled_from(sorted(Config.model_fields)), NAMES), st.one_of(st.dictionaries(NAMES, VALUES), VALUES)
)


@given(SECTIONS)
@example({"shadow": {"augment": {"integer": 1}}})
@example({"seed": math.inf})
@settings(max_examples=400)
def test_any_mapping_is_a_configuration_or_an_input_error(content: dict):
    try:
        config = parse_config(content, "my.yaml")
    except InputError as error:
        for line in str(error).split("\n"):
            assert line.startswith("my.yaml: ")
            assert line.isprintable()
    else:
        assert parse_config(config.model_dump(mode="json"), "") == config


@given(
    st.one_of(SECTIONS.map(lambda content: yaml.safe_dump(content).encode()), st.binary(), st.text().map(str.encode))
)
@settings(max_examples=300)
def test_any_file_is_a_configuration_or_an_input_error(tmp_path_factory, data: bytes):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    try:
        load_config(path)
    except InputError as error:
        assert all(line.startswith(str(path)) for line in str(error).split("\n"))


def test_a_line_about_yaml_shows_no_character_that_could_disguise_it(tmp_path: Path):
    for text in ("!\u058c", "!\u202e", "[\u200b: \u2066"):
        (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"a\.yaml: is not valid YAML: ") as refusal:
            load_config(tmp_path / "a.yaml")
        assert str(refusal.value).isprintable()


@pytest.mark.parametrize("section", ["", "shadow."])
def test_a_key_that_looks_like_a_place_of_pydantic_is_unknown_as_any_other(section: str):
    content = {"[key]": 1} if not section else {"shadow": {"[key]": 1}}
    with pytest.raises(InputError, match=rf"^file: {re.escape(section)}'\[key\]': unknown key"):
        parse_config(content, "file")


@pytest.mark.parametrize(
    "field, value",
    [
        ("epochs", 10**12),
        ("batch_size", 10**20),
        ("width", 10**9),
        ("depth", 10**20),
        ("augment", {"crop": 10**20}),
    ],
)
def test_a_number_that_no_machine_holds_is_refused_before_anything_is_allocated(field: str, value: object):
    with pytest.raises(InputError, match=rf"shadow\.{field}.* must be less than or equal to"):
        parse_config({"shadow": {field: value}}, "run.yaml")


@pytest.mark.parametrize(
    ("shadow", "message"),
    [
        ({"architecture": "cnn", "hidden": [8]}, r"shadow\.hidden: applies to an mlp, but architecture is cnn"),
        ({"architecture": "resnet18", "dropout": 0.1}, r"shadow\.dropout: applies to an mlp, but architecture is resn"),
        ({"architecture": "mlp", "hidden": [8], "width": 8}, r"shadow\.hidden: sets the units of each layer; leave"),
        ({"architecture": "mlp", "hidden": [0]}, r"shadow\.hidden\.0: 0 must be greater than or equal to 1"),
        ({"architecture": "mlp", "activation": "swish"}, r"shadow\.activation: 'swish' must be 'relu', 'tanh', 'gelu'"),
    ],
)
def test_layers_of_an_mlp_that_are_refused(shadow: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        parse_config({"shadow": shadow}, "config")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, r"^Recipe: epochs: 0 must be greater than or equal to 1$"),
        ({"archtecture": "mlp"}, r"^Recipe: archtecture: unknown key; did you mean 'architecture'\?$"),
        ({"hidden": [8]}, r"^Recipe: hidden: applies to an mlp, but architecture is resnet18$"),
        ({"augment": Augment(flip=True), "momentum": 2}, r"^Recipe: momentum: 2 must be less than 1$"),
    ],
)
def test_a_section_made_in_python_is_refused_as_one_in_a_file(fields: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        Recipe(**fields)


def test_scaling_by_the_pool_takes_the_place_of_mean_and_std():
    with pytest.raises(InputError, match=r"config: challenge\.scaling: pool takes the place of mean and std; leave"):
        parse_config({"challenge": {"scaling": "pool", "std": 2}}, "config")
    assert parse_config({"challenge": {"mean": 0.25}}, "config").challenge.mean == (0.25,)
