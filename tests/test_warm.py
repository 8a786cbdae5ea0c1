"""Warm processes are to a test what interpreters of its own are."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.warm import warm_python

PYTHONS = pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
LOADED = "import sys; print('jax' in sys.modules)"


def start(warm: bool, *arguments: str, **options) -> subprocess.Popen[str]:
    command = [warm_python() if warm else sys.executable, *arguments]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, **{**pipes, "text": True, **options})


@pytest.mark.skipif(sys.platform != "linux", reason="Python itself")
def test_what_takes_long_is_imported_unless_its_variables_are_others():
    def loaded(**changes: str) -> str:
        return start(True, "-c", LOADED, env={**os.environ, **changes}).communicate()[0]

    assert loaded() == loaded(XLA_FLAGS="") == loaded(TORCHINDUCTOR_CACHE_DIR="set by torch.compile") == "True\n"
    assert loaded(JAX_ENABLE_X64="1") == loaded(OMP_NUM_THREADS="2") == "False\n"


@pytest.mark.skipif(sys.platform != "linux", reason="Python itself")
def test_without_its_server_python_starts_anew(tmp_path: Path):
    """As where the worker that started the server has ended before the others."""
    warm = shutil.copytree(Path(warm_python()).parent, tmp_path / "warm")
    found = subprocess.run([warm / "python", "-c", LOADED], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("False\n", "")


@PYTHONS
def test_input_output_directory_variables_and_arguments_are_its_own(warm: bool, tmp_path: Path):
    code = "import os, sys; print(sys.argv, os.getcwd(), os.environ['A'], input(), __name__); print(2, file=sys.stderr)"
    process = start(warm, "-c", code, "x", "-y", cwd=tmp_path, env={**os.environ, "A": "b"})
    out, err = process.communicate("typed\n")
    assert out == f"['-c', 'x', '-y'] {tmp_path} b typed __main__\n"
    assert err == "2\n"
    assert process.returncode == 0


@PYTHONS
def test_code_is_the_main_module(warm: bool):
    code = "import pickle\nclass Own: pass\nprint(type(pickle.loads(pickle.dumps(Own()))) is Own)"
    assert start(warm, "-c", code).communicate() == ("True\n", "")


@PYTHONS
def test_modules_and_scripts_are_run(warm: bool, tmp_path: Path):
    (tmp_path / "beside.py").write_text("name = 'beside'")
    (tmp_path / "script.py").write_text("import sys; from beside import name; print(name, sys.argv[1:], __name__)")
    for arguments in (["script.py"], ["-m", "script"]):
        out, err = start(warm, *arguments, "a", cwd=tmp_path).communicate()
        assert out == "beside ['a'] __main__\n", err
    out, err = start(warm, "-P", "-m", "script", cwd=tmp_path).communicate()
    assert "No module named script" in err


@PYTHONS
def test_the_platform_is_its_own(warm: bool):
    code = "import jax; print(jax.config.jax_platforms, jax.devices()[0].platform)"
    out, err = start(warm, "-c", code, env={**os.environ, "JAX_PLATFORMS": "cpu"}).communicate()
    assert out == "cpu cpu\n", err


@PYTHONS
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit(3)", (3, "")),
        ("raise SystemExit('no')", (1, "no\n")),
        ("import atexit; atexit.register(print, 'end', file=__import__('sys').stderr)", (0, "end\n")),
        ("import os; os.kill(os.getpid(), 9)", (-9, "")),
        ("import os; os._exit(7)", (7, "")),
    ],
)
def test_it_ends_as_its_program_does(warm: bool, code: str, expected: tuple[int, str]):
    process = start(warm, "-c", code)
    _, err = process.communicate()
    assert (process.returncode, err) == expected


@PYTHONS
def test_an_error_that_nobody_catches_is_shown(warm: bool):
    process = start(warm, "-c", "1 / 0")
    assert process.communicate()[1].endswith("ZeroDivisionError: division by zero\n")
    assert process.returncode == 1


@PYTHONS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_it(warm: bool, number: signal.Signals):
    code = "import signal, sys, time\ntry: print(1, flush=True); time.sleep(60)\nexcept KeyboardInterrupt: sys.exit(5)"
    process = start(warm, "-c", code)
    assert process.stdout and process.stdout.readline() == "1\n"
    process.send_signal(number)
    process.communicate()
    assert process.returncode == (5 if number == signal.SIGINT else -signal.SIGTERM)


@PYTHONS
def test_it_is_killed_with_the_process_that_was_started(warm: bool):
    process = start(warm, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    assert process.stdout
    pid = int(process.stdout.readline())
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
