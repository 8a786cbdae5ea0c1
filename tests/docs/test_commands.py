"""Every command in the documents is understood by the program; those that can run here are run, on a tiny challenge."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from bridge.demo import make_demo
from jaxmia.cli import COMMANDS, main, parse
from jaxmia.config import Config
from jaxmia.overrides import configure, refuse_overrides
from tests.docs.commands import DOCUMENTS, ROOT, Command, commands_of

ALL = [command for path in DOCUMENTS for command in commands_of(path)]
LINES = list(dict.fromkeys(command for command in ALL if command.program == "jaxmia"))
CONFIGURED = ("run", "train", "query", "match", "doctor")

# Another target and few, short shadows, in place of what a document asks for.
TINY = shlex.split("""
  --challenge.public pub.pt --challenge.private priv.pt --challenge.target model.pt
  --challenge.architecture cnn --challenge.image_size null --challenge.mean 0.3053 --challenge.std 0.3761
  --shadow.architecture mlp --shadow.width 4 --shadow.count 24 --shadow.epochs 1 --shadow.batch_size 64
  --shadow.augment {} --query.views identity --ensemble.width 24 --ensemble.conv unrolled --ensemble.devices 1
  --match.models 2 --match.trials 1 --match.epochs 1 --match.learning_rate 0.1
""")
RUN = ("quickstart.md", "course.md", "troubleshooting.md", "README.md")
NOT_HERE = {
    "demo": "tested where the demo is",
    "leaderboard": "serves until it is stopped",
    "bench": "measures for minutes",
}


def named(text: str) -> set[str]:
    """Commands that a text mentions."""
    return set(re.findall(r"`jaxmia ([a-z]+)", text))


def test_there_are_commands_and_every_command_is_documented():
    assert len(LINES) > 30
    assert {line.arguments[0] for line in LINES} >= COMMANDS.keys() - {"train", "query"}


def test_a_command_is_found_as_a_reader_copies_it(tmp_path: Path):
    (tmp_path / "a.md").write_text(
        "`jaxmia no` jaxmia no\n```\n.venv/bin/jaxmia run --out a \\\n  --config b.yaml # why\nA=1 jaxmia x > y\n```\n"
        "text\n\n        make demo\n"
    )
    found = [(command.program, *command.arguments) for command in commands_of(tmp_path / "a.md")]
    assert found == [("jaxmia", "run", "--out", "a", "--config", "b.yaml"), ("jaxmia", "x"), ("make", "demo")]


@pytest.mark.parametrize("line", LINES, ids=str)
def test_each_command_is_understood(line: Command):
    """Its options exist; its fields too, with values that are allowed; a configuration of the repository is there."""
    command, overrides = parse(line.arguments)
    config = getattr(command, "config", None)
    if config is not None and config.parts[0] == "configs":
        assert (ROOT / config).is_file()
        configure(ROOT / config, overrides) if "cluster" not in line.arguments else refuse_overrides(overrides)
    elif overrides:
        configure(None, overrides)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_fields_and_files_in_the_text_exist(path: Path):
    text = path.read_text()
    assert named(text) <= COMMANDS.keys()
    for name in re.findall(r"`((?:challenge|shadow|ensemble|query|attack|match)\.[\w.]+)", text):
        if name.endswith((".json", ".png")):
            continue
        section, _, field = name.partition(".")
        model = Config.model_fields[section].annotation
        for part in field.split("."):
            assert model is not None, name
            assert part in model.model_fields, f"{path.name}: {name}"  # pyright: ignore[reportAttributeAccessIssue]
            model = model.model_fields[part].annotation  # pyright: ignore[reportAttributeAccessIssue]
    for name in re.findall(r"`((?:configs|examples|benchmarks)/[\w./-]+\.\w+)`", text):
        assert (ROOT / name).is_file(), f"{path.name}: {name}"


@pytest.mark.parametrize("line", [command for command in ALL if command.program == "make"], ids=str)
def test_each_make_target_exists(line: Command):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line.arguments[0] in targets


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's challenge under the names that documents use, and a small finished run of each name."""
    place = tmp_path_factory.mktemp("workplace")
    make_demo(place)
    shutil.copytree(ROOT / "configs", place / "configs")
    return place


def reduced(line: Command) -> list[str]:
    """The command, made small where it has a configuration."""
    return [*line.arguments, *(TINY if line.arguments[0] in CONFIGURED else [])]


@pytest.mark.slow
@pytest.mark.parametrize("document", RUN)
def test_the_commands_of_a_document_run_in_order(
    document: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("JAXMIA_LEADERBOARD_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("JAXMIA_API_KEY", "k")
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
    if not (workplace / "runs/demo/submission.csv").exists():
        main(["run", "--config", "configs/quickstart.yaml", "--out", "runs/demo", *TINY])
        shutil.copy(workplace / "truth.csv", workplace / "runs/demo")
    ran = 0
    for line in LINES:
        if line.document != document or line.arguments[0] in NOT_HERE:
            continue
        if line.arguments[0] == "submit" and "--dry-run" not in line.arguments:
            continue
        try:
            main(reduced(line))
        except SystemExit as stop:
            assert stop.code in (0, None), f"{line}\n{capsys.readouterr().err}"
        ran += 1
    assert ran
