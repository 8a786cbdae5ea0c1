"""The Python in the documents runs, block after block, and every kind of target that they tell of is attacked."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from bridge.networks import build
from bridge.target import save_target
from jaxmia.cli.main import main
from jaxmia.evaluation.metrics import figures
from jaxmia.models import Network
from jaxmia.plugins import import_plugin
from tests.docs.commands import ROOT, commands_of

TINY = shlex.split(
    "--shadow.width 4 --shadow.count 4 --shadow.epochs 1 --query.views identity "
    "--attack.name margin --ensemble.width 4 --ensemble.conv unrolled --ensemble.devices 1"
)
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.py)\n")


def blocks(name: str) -> str:
    """The Python of a document that is to be run, without the modules that it shows."""
    return "\n".join(block for block in _BLOCK.findall((ROOT / name).read_text()) if not _FILE.match(block))


def write_modules(name: str) -> None:
    """Writes the modules that a document shows, named in their first line, to the working directory."""
    for block in _BLOCK.findall((ROOT / name).read_text()):
        if match := _FILE.match(block):
            Path(match[1]).write_text(block)


@pytest.mark.slow
def test_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Every command, in order; each of its runs attacks another target or by another network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    exec(compile(blocks("docs/own-model.md"), "own-model.md", "exec"), {"__name__": "own"})
    write_modules("docs/own-model.md")
    save_target(build(Network("resnet18", (32, 32, 3), 10, width=4)), Path("model.pt"))
    save_target(import_plugin("mymodels:classifier", "test")(), Path("weights.pt"))
    runs = []
    for line in commands_of(ROOT / "docs/own-model.md"):
        name = line.arguments[0]
        network = [] if "--shadow.architecture" in line.arguments else ["--shadow.architecture", "mlp"]
        tiny = [*TINY[2:], *network] if line.arguments[-1] == "target" else [*TINY, *network]
        main([*line.arguments, *(tiny if name == "run" else [])])
        out = capsys.readouterr().out
        if name == "run":
            assert "TPR at 5 % FPR" in out
            runs.append(Path(line.arguments[line.arguments.index("--out") + 1]))
    assert len(runs) == 5
    submissions = {(run / "submission.csv").read_text() for run in runs}
    assert [len(text.splitlines()) for text in submissions] == 3 * [501], "two runs attack a target of another one"
    shadows = {np.load(next((run / "shadows").iterdir()))["phi"].tobytes() for run in runs}
    assert len(shadows) == 3, "of the MLP, of the network of the user's own, and of the target's"


@pytest.mark.slow
def test_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A model and a table, from the files to the figures."""
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("docs/tables.md"), "tables.md", "exec"), {})
    walk = [
        line for line in commands_of(ROOT / "docs/tables.md") if {"network.pt2", "runs/network"} & set(line.arguments)
    ]
    assert [line.arguments[0] for line in walk] == ["doctor", "run", "evaluate"]
    for line in walk:
        main([*line.arguments, *(TINY[2:] if line.arguments[0] == "run" else [])])
    assert "shadow: target, trained together in JAX" in (shown := capsys.readouterr().out)
    assert "137 members, 147 non-members" in shown
    assert Path("runs/network/report.html").exists()


def test_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """What the page writes is scored, by its command and from Python."""
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(compile(blocks("docs/formats.md"), "formats.md", "exec"), space)
    (line,) = commands_of(ROOT / "docs/formats.md")
    main(list(line.arguments))
    assert "TPR at 5 % FPR" in capsys.readouterr().out
    assert figures(np.load("runs/elsewhere/scores.npz")["margin"], space["members"]).auc.value > 0.7
    assert space["result"].scores.shape == (400,)


def test_the_formats_page_names_what_is_written(planted):
    text = (ROOT / "docs/formats.md").read_text()
    for file in ("pool.npz", "target.npz", next((planted[0] / "shadows").iterdir()).relative_to(planted[0])):
        for name in np.load(planted[0] / file).files:
            assert f"`{name}`" in text, f"{file}: {name}"


def test_the_library_page_shows_the_example_as_it_is():
    shown = re.search(r"^```py\n(.*?)^```$", (ROOT / "docs/library.md").read_text(), re.MULTILINE | re.DOTALL)
    assert shown
    assert shown[1] == (ROOT / "examples/library.py").read_text()


def test_the_reference_describes_each_module():
    text = (ROOT / "docs/reference.md").read_text()
    modules = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert len(modules) > 20
    for name in modules:
        assert re.search(rf"^\| `{re.escape(name)}` \| \S.* \|$", text, re.MULTILINE), name


@pytest.mark.slow
def test_readme(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(demo, tmp_path / "runs/demo")
    monkeypatch.chdir(tmp_path)
    code = blocks("README.md")
    smaller = {
        'architecture="cnn", count=64, epochs=25': 'architecture="mlp", width=4, count=4, epochs=1',
        "target.query, shadows)": 'target.query, shadows, "margin")',
    }
    for long, short in smaller.items():
        assert long in code
        code = code.replace(long, short)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert "Estimate(" in capsys.readouterr().out
    assert len((tmp_path / "submission.csv").read_text().splitlines()) == 601


def test_library(planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "runs").mkdir()
    planted[0].rename(tmp_path / "runs/demo")
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(compile(blocks("docs/library.md"), "library.md", "exec"), space)
    assert space["scores"].shape == planted[1].shape
    assert space["scores"][planted[1]].mean() > space["scores"][~planted[1]].mean()
