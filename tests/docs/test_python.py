"""The Python in the documents runs, block after block, and every kind of target that they tell of is attacked."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from bridge.demo import make_demo
from bridge.networks import build
from bridge.target import save_target
from jaxmia.cli.main import main
from jaxmia.models import Network
from tests.docs.commands import ROOT, commands_of

TINY = shlex.split(
    "--shadow.architecture mlp --shadow.width 4 --shadow.count 4 --shadow.epochs 1 --query.views identity "
    "--attack.name margin --ensemble.width 4 --ensemble.conv unrolled --ensemble.devices 1"
)


def blocks(name: str) -> str:
    """The Python of a document."""
    found = re.findall(r"^```python\n(.*?)^```$", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(found)


@pytest.mark.slow
def test_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("docs/own-model.md"), "own-model.md", "exec"), {"__name__": "own"})
    save_target(build(Network("resnet18", (32, 32, 3), 10, width=4)), Path("model.pt"))
    Path("mymodels.py").write_text(
        "from torch import nn\n\ndef classifier(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    save_target(import_module("mymodels").classifier(), Path("weights.pt"))
    Path("configs").symlink_to(ROOT / "configs")
    made = set()
    for line in commands_of(ROOT / "docs/own-model.md"):
        main([*line.arguments, *TINY])
        assert "TPR at 5 % FPR" in capsys.readouterr().out
        made.add(Path("runs/own/submission.csv").read_text())
    assert [len(csv.splitlines()) for csv in made] == 3 * [501]


@pytest.mark.slow
def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    make_demo(tmp_path / "runs/demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
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
