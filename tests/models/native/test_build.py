import functools
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import jax
import pytest

from jaxmia.models.native import build
from tests.kernels import needs_kernels
from tests.warm import warm_python

COMPILED = None if build.unavailable() else build._compiled(str(build._compiler()))
"""The library as these tests use it."""
LOAD = "from jaxmia.models.native.build import unavailable; print(unavailable())"


def load_anew() -> subprocess.CompletedProcess[str]:
    return subprocess.run([warm_python(), "-c", LOAD], capture_output=True, text=True, check=True)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache folder, and nothing compiled yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "unavailable", build.unavailable.__wrapped__)
    return tmp_path / "jaxmia"


def use_compiler(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a shell command that writes to `$output` be the compiler."""
    script = folder / "compiler"
    script.write_text(f"#!/bin/sh\nfor output; do :; done\n{command}\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))


@pytest.fixture
def quick_compiler(tmp_path, monkeypatch):
    """Copies what was compiled before, instead of seconds of compiling; returns a file with a line for each call."""
    calls = tmp_path / "calls"
    use_compiler(f'echo "$output" >> {calls}; cp {COMPILED} "$output"', tmp_path, monkeypatch)
    return calls


@needs_kernels
@pytest.mark.skipif(platform.machine() != "x86_64", reason="processors of another kind")
@pytest.mark.parametrize("source", build.sources(), ids=lambda source: source.stem)
@pytest.mark.parametrize("machine", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_the_kernels_are_valid_for_processors_with_fewer_instructions(machine: str, source: Path):
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, "-std=c++17", f"-march={machine}", "-fsyntax-only", f"-I{jax.ffi.include_dir()}"]
    result = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_without_a_compiler(fresh, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no C++ compiler found among $CXX, c++, g++, clang++" in str(build.unavailable())
    assert not fresh.exists()


def test_a_compiler_that_fails_leaves_nothing(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    assert "false cannot compile the kernels" in str(build.unavailable())
    assert not fresh.exists()


def test_a_damaged_library_is_told(fresh, tmp_path, monkeypatch):
    use_compiler('echo "no library" > "$output"', tmp_path, monkeypatch)
    assert "cannot be saved or loaded" in str(build.unavailable())


@needs_kernels
@pytest.mark.slow
def test_the_library_is_compiled_once(fresh, quick_compiler):
    assert load_anew().stdout == "None\n"
    (library,) = fresh.iterdir()
    made = library.stat().st_mtime_ns
    assert load_anew().stdout == "None\n"
    assert [path.stat().st_mtime_ns for path in fresh.iterdir()] == [made]
    assert len(quick_compiler.read_text().splitlines()) == len(build.sources()) + 1, "each source, and the library"


@needs_kernels
@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize("damage", ["empty", "half", "a bit"])
def test_a_damaged_library_is_made_again(fresh, damage: str):
    """Loading one that is cut short ends the process with a bus error."""
    library = build._compiled(os.environ["CXX"])
    whole = library.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    library.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "a bit": bytes(flipped)}[damage])
    assert load_anew().stdout == "None\n"
    assert list(fresh.iterdir()) == [library]
    assert len(library.read_bytes()) == len(whole)


@needs_kernels
@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
def test_a_remembered_plan_of_kernels_serves_the_next_process(fresh):
    """XLA must know the kernels in a process that neither measures nor compiles."""
    code = """
import logging, sys
import numpy as np
from jaxmia.api import train_shadows
from jaxmia.config import EnsembleConfig, Recipe
from jaxmia.data.pool import Pool
from jaxmia.data.preprocessing import Preprocessing

logging.getLogger("jaxmia").addHandler(logging.StreamHandler(sys.stdout))
logging.getLogger("jaxmia").setLevel(logging.INFO)
images = np.zeros((40, 4, 4, 1), np.uint8)
pool = Pool(images, np.arange(40) % 2, np.arange(40).astype(str), np.full(40, -1, np.int8))
recipe = Recipe(architecture="cnn", width=4, count=2, epochs=1, batch_size=16)
shadows = train_shadows(pool, recipe, Preprocessing(), 2, ensemble=EnsembleConfig(width=2), symmetries=("identity",))
print(np.isfinite(shadows.phi).all())
"""
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=True)
    first = run([warm_python(), "-c", code]).stdout
    assert "native, width 2" in first
    (kept,) = fresh.glob("plan-*.json")
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"conv": "native"}))
    assert run([warm_python(), "-c", code]).stdout == "True\n"
