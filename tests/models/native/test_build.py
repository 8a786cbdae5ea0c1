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


@pytest.fixture
def gcc(fresh, tmp_path, monkeypatch):
    """GCC as the compiler, but for a shell command that comes before; only the list of instructions is compiled."""
    if platform.machine() != "x86_64" or not shutil.which("g++"):
        pytest.skip("needs GCC on x86-64")
    (listed,) = (path for path in build.sources() if path.stem == "instructions")
    monkeypatch.setattr(build, "sources", lambda: [listed])
    monkeypatch.setattr(build, "unavailable", lambda: None)
    monkeypatch.setattr(build, "instruction_set", lambda: "flags : fpu fma avx avx2 avx512f amx_bf16")
    return lambda before, after="": use_compiler(f'{before}\nexec g++ "$@" {after}', tmp_path, monkeypatch)


def test_instructions_that_the_compiler_does_not_use_are_told(gcc):
    """Both the user and the provenance of results learn of them, with the compiler's version."""
    gcc("", "-march=x86-64-v3")
    version = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    assert build.description() == f"avx2 fma, GCC {version}"
    assert build.shortcoming() == (
        f"compiled by {os.environ['CXX']} (GCC {version}) without avx512f, amx_bf16, which this processor has, "
        "so that training is slower; $CXX can name another compiler"
    )


def test_a_compiler_that_does_not_know_the_processor_is_told(gcc):
    gcc('case "$*" in *-march=native*) exit 1;; esac')
    assert build.description().startswith("x86_64, GCC ")
    assert "without avx2, fma, avx512f, amx_bf16, which" in str(build.shortcoming())


def test_nothing_is_told_where_all_instructions_of_the_processor_are_used(gcc, monkeypatch):
    gcc("", "-march=x86-64-v3")
    monkeypatch.setattr(build, "instruction_set", lambda: "flags : fpu fma avx avx2")
    assert build.shortcoming() is None


def test_without_a_compiler_training_may_be_slower(fresh, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "not used, so that training may be slower, and precision auto is float32: no C++ compiler" in str(
        build.shortcoming()
    )
    assert build.description().startswith("unavailable: no C++ compiler found")


def test_a_compiler_that_was_updated_compiles_anew(gcc, fresh):
    gcc("")
    first = build._compiled(os.environ["CXX"])
    assert build._compiled(os.environ["CXX"]) == first
    os.utime(os.environ["CXX"], (0, 0))
    assert build._compiled(os.environ["CXX"]) != first
    assert len(list(fresh.iterdir())) == 2


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
