"""The import rules of CONTRIBUTING: packages import only from lower levels, and torch and jax only where allowed."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(p for folder in ("jaxmia", "bridge", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py"))
MAY_USE_BRIDGE = ("pipeline", "cli")
MOST_MODULES_AT_THE_TOP = 10

LEVELS = (
    {"errors", "_version"},
    {"plugins", "validation"},
    {"files", "provenance", "attacks"},
    {"config"},
    {"data", "models", "evaluation", "cluster"},
    {"runs", "leaderboard", "plots"},
    {"training", "report"},
    {"bridge", "machine"},
    {"pipeline"},
    {"matching", "api"},
    {"cli"},
    {"__init__", "__main__"},
)
"""Packages and top-level modules from the bottom up, each of which imports only from levels below its own."""
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


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
    """Imports of the file at `path` (relative to the repository) that break a rule."""
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
        if path.parts[1] in ("attacks", "evaluation") and packages & {"jax", "flax", "optax"}:
            wrong.append("imports jax, but attacks and evaluation are plain NumPy")
    return wrong


def upward(path: Path, source: str) -> list[str]:
    """Imports of the file at `path` from its own or a higher level, among the parts of `jaxmia` and `bridge`."""
    own = part_of(".".join(path.with_suffix("").parts))
    found = {part_of(module) for module in modules(source) if module.partition(".")[0] in ("jaxmia", "bridge")}
    return sorted(f"{own} imports {other}" for other in found - {own} if LEVEL[other] >= LEVEL[own])


def modules(source: str) -> set[str]:
    """Full names of all modules that `source` imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def part_of(module: str) -> str:
    """The package or module directly below `jaxmia` that a module belongs to, or `bridge`."""
    package, *rest = module.split(".")
    return package if package != "jaxmia" else rest[0] if rest and rest[0] in LEVEL else "__init__"


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules on an import cycle."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += graph[module]
        return seen

    return [module for module in graph if module in reachable(module)]


def import_graph() -> dict[str, set[str]]:
    """Modules that each module of `jaxmia` and `bridge` imports, inside functions too."""
    names = {}
    for path in SOURCES:
        relative = path.relative_to(ROOT)
        if relative.parts[0] in ("jaxmia", "bridge"):
            names[".".join(relative.with_suffix("").parts).removesuffix(".__init__")] = path
    graph = {}
    for name, path in names.items():
        imported = {module if module in names else module.rpartition(".")[0] for module in modules(path.read_text())}
        graph[name] = imported & set(names) - {name}
    return graph


def test_packages_import_only_from_lower_levels():
    wrong = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] in ("jaxmia", "bridge")
        for line in upward(path.relative_to(ROOT), path.read_text())
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("jaxmia/attacks/lira.py", "from jaxmia.runs.store import Chunk", "attacks imports runs"),
        ("jaxmia/training/chunk.py", "def f():\n    from jaxmia.cli import display", "training imports cli"),
        ("jaxmia/files.py", "from jaxmia import provenance", "files imports provenance"),
        ("jaxmia/data/pool.py", "import bridge.target", "data imports bridge"),
    ],
)
def test_an_import_from_a_higher_level_is_found(path: str, source: str, complaint: str):
    assert upward(Path(path), source) == [complaint]


def test_there_are_no_import_cycles():
    assert circles(import_graph()) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_few_modules_are_at_the_top():
    top = [path.name for path in (ROOT / "jaxmia").glob("*.py")]
    assert len(top) <= MOST_MODULES_AT_THE_TOP, top


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_imports_only_what_it_may(path: Path):
    assert violations(path.relative_to(ROOT), path.read_text()) == []


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("jaxmia/data/pool.py", "import torch.nn as nn", "torch outside"),
        ("jaxmia/data/pool.py", "def f():\n    from torch import load", "torch outside"),
        ("jaxmia/report/page.py", "import importlib\nimportlib.import_module('torch')", "torch outside"),
        ("tests/test_pool.py", "import pytest\ntorch = pytest.importorskip('torch')", "torch outside"),
        ("jaxmia/data/pool.py", "def f():\n    import bridge.target", "bridge, which only"),
        ("jaxmia/pipeline/stages.py", "from bridge.target import load_target", "when it is imported"),
        ("jaxmia/report/page.py", "try:\n    import bridge\nexcept ImportError:\n    pass", "when it is imported"),
        ("jaxmia/attacks/lira.py", "def f():\n    from jax import numpy", "plain NumPy"),
        ("jaxmia/evaluation/metrics.py", "import jax.numpy as jnp", "plain NumPy"),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str, complaint: str):
    assert any(complaint in line for line in violations(Path(path), source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("bridge/target.py", "import torch\nimport jaxmia.data.pool"),
        ("tests/bridge/test_target.py", "import torch"),
        ("jaxmia/pipeline/stages.py", "def run():\n    from bridge.target import load_target"),
        ("jaxmia/pipeline/stages.py", "if TYPE_CHECKING:\n    from bridge.target import Target"),
        ("jaxmia/training/trainer.py", "import jax\nfrom . import bridge"),
        ("jaxmia/report/page.py", "text = 'import torch'  # import torch"),
    ],
)
def test_a_right_import_is_let_through(path: str, source: str):
    assert violations(Path(path), source) == []


def test_scoring_and_what_surrounds_it_need_no_framework():
    """Also what their imports import: they must work on machines without a device, and start fast."""
    modules = "attacks", "evaluation.metrics", "pipeline.scoring", "runs.status", "leaderboard.client", "report"
    imports = ", ".join(f"jaxmia.{module}" for module in modules)
    code = f"import sys, {imports}; print(sorted({{'jax', 'flax', 'torch', 'scipy.stats'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
