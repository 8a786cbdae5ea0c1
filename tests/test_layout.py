"""Who may import whom: torch stays in `bridge`, `bridge` stays behind functions, the attacks stay plain NumPy."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(p for folder in ("jaxmia", "bridge", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py"))
MAY_USE_BRIDGE = ("pipeline", "benchmark", "commands")


class Import(NamedTuple):
    package: str
    deferred: bool
    """Not run when the module is imported."""


def imports(source: str) -> set[Import]:
    """Top-level packages that `source` imports, by statement or by `import_module("...")`."""
    return set(_imports(ast.parse(source), deferred=False))


def _imports(node: ast.AST, deferred: bool):
    match node:
        case ast.Import(names=names):
            yield from (Import(_root(alias.name), deferred) for alias in names)
        case ast.ImportFrom(module=str(module), level=0):
            yield Import(_root(module), deferred)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(module)), *_]):
            if name in ("import_module", "__import__", "importorskip"):
                yield Import(_root(module), deferred)
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() | ast.If(test=ast.Name(id="TYPE_CHECKING")):
            deferred = True
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, deferred)


def _root(module: str) -> str:
    return module.partition(".")[0]


def violations(path: Path, source: str) -> list[str]:
    """What the file at `path` (relative to the repository) imports against the rules."""
    found = imports(source)
    packages = {entry.package for entry in found}
    wrong = []
    if path.parts[0] != "bridge" and path.parts[:2] != ("tests", "bridge") and "torch" in packages:
        wrong.append("imports torch outside bridge/")
    if path.parts[0] == "jaxmia":
        if "bridge" in packages and path.parts[1].removesuffix(".py") not in MAY_USE_BRIDGE:
            wrong.append(f"imports bridge, which only {', '.join(MAY_USE_BRIDGE)} may")
        if Import("bridge", deferred=False) in found:
            wrong.append("imports bridge when it is imported")
        if path.parts[1] in ("attacks", "metrics.py") and packages & {"jax", "flax", "optax"}:
            wrong.append("imports jax, but attacks and metrics are plain NumPy")
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_imports_only_what_it_may(path: Path):
    assert violations(path.relative_to(ROOT), path.read_text()) == []


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("jaxmia/pool.py", "import torch.nn as nn", "torch outside"),
        ("jaxmia/pool.py", "def f():\n    from torch import load", "torch outside"),
        ("jaxmia/cli.py", "import importlib\nimportlib.import_module('torch')", "torch outside"),
        ("tests/test_pool.py", "import pytest\ntorch = pytest.importorskip('torch')", "torch outside"),
        ("jaxmia/pool.py", "def f():\n    import bridge.target", "bridge, which only"),
        ("jaxmia/pipeline.py", "from bridge.target import load_target", "when it is imported"),
        ("jaxmia/cli.py", "try:\n    import bridge\nexcept ImportError:\n    pass", "when it is imported"),
        ("jaxmia/attacks/lira.py", "def f():\n    from jax import numpy", "plain NumPy"),
        ("jaxmia/metrics.py", "import jax.numpy as jnp", "plain NumPy"),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str, complaint: str):
    assert any(complaint in line for line in violations(Path(path), source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("bridge/target.py", "import torch\nimport jaxmia.pool"),
        ("tests/bridge/test_target.py", "import torch"),
        ("jaxmia/pipeline.py", "def run():\n    from bridge.target import load_target"),
        ("jaxmia/pipeline.py", "if TYPE_CHECKING:\n    from bridge.target import Target"),
        ("jaxmia/training/step.py", "import jax\nfrom . import bridge"),
        ("jaxmia/report/page.py", "text = 'import torch'  # import torch"),
    ],
)
def test_a_right_import_is_let_through(path: str, source: str):
    assert violations(Path(path), source) == []


@pytest.mark.parametrize("module", ["jaxmia.attacks", "jaxmia.metrics"])
def test_importing_it_needs_no_framework(module: str):
    """Also what its imports import: scoring must work on machines without a device."""
    if not list(ROOT.glob(f"{module.replace('.', '/')}*")):
        pytest.skip(f"{module} is not there yet")
    code = f"import sys, {module}; print(sorted({{'jax', 'flax', 'torch'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
