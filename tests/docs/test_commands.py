"""Every command in the documents is understood by the program; those that can run here are run, on a tiny challenge."""

import functools
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bridge.product
from bridge.peers import find_peers
from jaxmia.cli.commands.init import Init
from jaxmia.cli.main import COMMANDS, main, parse
from jaxmia.cli.overrides import configure, refuse_overrides
from jaxmia.config import Config
from jaxmia.machine import ceiling
from tests.docs.commands import DOCUMENTS, ROOT, Command, commands_of
from tests.warm import warm_python

ALL = [command for path in DOCUMENTS for command in commands_of(path)]
LINES = list(dict.fromkeys(command for command in ALL if command.program == "jaxmia"))

# Few, short shadows in place of what a document asks for; and another target.
SMALL = shlex.split("""
  --shadow.architecture mlp --shadow.width 4 --shadow.count 20 --shadow.epochs 1 --shadow.batch_size 64
  --shadow.augment {} --ensemble.width 20 --ensemble.conv unrolled --ensemble.devices 1 --attack.targets 4
""")
# Few views where a document asks for none of its own.
VIEWS = ("--query.views", "identity")
TINY = SMALL + shlex.split("""
  --challenge.public pub.pt --challenge.private priv.pt --challenge.target model.pt
  --challenge.architecture cnn --challenge.image_size null --challenge.mean 0.3053 --challenge.std 0.3761
  --match.models 2 --match.trials 1 --match.epochs 1 --match.learning_rate 0.1
""")
REDUCED = {
    "demo": SMALL,
    "bench": [*SMALL, "--shape", "8", "8", "1", "--widths", "1", "--repeats", "1", "--seconds", "0.01"],
    **dict.fromkeys(("run", "train", "query", "match", "doctor"), TINY),
}
PAGES = (
    "quickstart.md",
    "course.md",
    "matching.md",
    "leaderboard.md",
    "reliability.md",
    "throughput.md",
    "troubleshooting.md",
    "README.md",
)


def first_of_their_kind() -> dict[str, list[Command]]:
    """Commands to run for real, page by page: what an earlier page shows too is run there."""
    first: dict[tuple[str, ...], Command] = {}
    for page in PAGES:
        for line in LINES:
            if line.document == page and line.arguments[0] != "leaderboard":
                first.setdefault(line.arguments, line)
    return {page: lines for page in PAGES if (lines := [line for line in first.values() if line.document == page])}


RUN = first_of_their_kind()
SUBMITTING = [page for page, lines in RUN.items() if any(line.arguments[0] == "submit" for line in lines)]


def reduced(line: Command) -> list[str]:
    """What makes a command short, behind its own options."""
    small = REDUCED.get(line.arguments[0], [])
    return [*small, *VIEWS] if small and VIEWS[0] not in line.arguments else small


def named(text: str) -> set[str]:
    """Commands that a text mentions."""
    return set(re.findall(r"`jaxmia ([a-z]+)", text))


def test_there_are_commands_and_every_command_is_documented():
    assert len(LINES) > 30
    assert {line.arguments[0] for line in LINES} >= COMMANDS.keys() - {"train", "query"}


def test_every_command_of_the_pages_is_run_once():
    run = [line.arguments for lines in RUN.values() for line in lines]
    shown = {line.arguments for line in LINES if line.document in PAGES and line.arguments[0] != "leaderboard"}
    assert sorted(run) == sorted(shown)
    assert RUN.keys() >= {"quickstart.md", "course.md", "matching.md"}


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
def quick_measurements() -> Iterator[None]:
    """Training is timed at once, steady or not; the fastest matrix products are measured by the first command alone.

    Processes that measure need not import what takes seconds.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", warm_python())
        patch.setattr("jaxmia.training.speed.settle", lambda call: call())
        patch.setattr("jaxmia.machine.doctor.gpus", list)  # JAX may be installed without support for this machine's
        for module in (ceiling, bridge.product):
            patch.setattr(module, "product_flops_per_second", functools.cache(module.product_flops_per_second))
        yield


@pytest.fixture(scope="module")
def workplace(demo: Path, quick_measurements: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's challenge, a finished run and measurements, under the names that documents use."""
    place = tmp_path_factory.mktemp("workplace")
    for folder in (place, place / "runs/demo"):
        shutil.copytree(demo, folder, dirs_exist_ok=True)
    shutil.copytree(ROOT / "configs", place / "configs")
    Init(place / "own.yaml")([])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        main(["run", "--config", "configs/tml26.yaml", "--out", "runs/tml26", *TINY, *VIEWS])
        main(["bench", "--out", ".", *REDUCED["bench"]])
    for name in ("a.json", "b.json"):
        shutil.copy(place / "bench.json", place / name)
    return place


@pytest.fixture
def served(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """The practice leaderboard as the documents start it, but on a free port; its settings are in the environment."""
    (line,) = (line for line in LINES if line.arguments[0] == "leaderboard")
    command = [warm_python(), "-m", "jaxmia", *line.arguments, "--port", "0"]
    with subprocess.Popen(
        command, cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr
        for said in process.stderr:
            for name, value in re.findall(r"(JAXMIA_\w+)=(\S+)", said):
                monkeypatch.setenv(name, value)
            if "JAXMIA_API_KEY" in said:
                break
        yield process
        process.kill()


@pytest.fixture
def one_peer(monkeypatch: pytest.MonkeyPatch):
    """Compiling the other ways of training in PyTorch takes minutes."""
    monkeypatch.setattr("bridge.peers.find_peers", lambda *about: find_peers(*about)[:1])


def run_in_order(lines: list[Command], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs commands by their reduced settings; what they print."""
    printed = ""
    for line in lines:
        if line.arguments[0] == "init":
            Path(line.arguments[1]).unlink(missing_ok=True)
        try:
            main([*line.arguments, *reduced(line)])
        except SystemExit as stop:
            assert stop.code in (0, None), f"{line}\n{capsys.readouterr().err}"
        printed += capsys.readouterr().out
    return printed


@pytest.mark.slow
@pytest.mark.usefixtures("one_peer")
@pytest.mark.parametrize("document", [name for name in RUN if name not in SUBMITTING])
def test_the_commands_of_a_document_run_in_order(
    document: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(workplace)
    run_in_order(RUN[document], capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("one_peer")
@pytest.mark.parametrize("document", SUBMITTING)
def test_the_commands_of_a_document_run_in_order_and_submit(
    document: str,
    workplace: Path,
    served: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("no_proxy", "*")
    assert "accepted as" in run_in_order(RUN[document], capsys)
    served.send_signal(signal.SIGINT)
    out, _ = served.communicate(timeout=60)
    assert "final ranking" in out
    assert served.returncode == 0
