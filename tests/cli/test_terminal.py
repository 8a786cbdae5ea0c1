"""What the command line does where its surroundings are not as they should be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxmia.files import cache_folder

ROOT = Path(__file__).parents[2]


def jaxmia(arguments: str, cwd: Path, shell: str = "{}", **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command line in a shell; `shell` says what is around it."""
    command = shell.format(f'"{sys.executable}" -m jaxmia {arguments}')
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(["sh", "-c", command], cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with an umlaut in its name, and one damaged file."""
    path = tmp_path / "größe" / "shadows" / "00000-00001.npz"
    path.parent.mkdir(parents=True)
    path.write_text("half")
    return tmp_path


def test_an_ascii_terminal_shows_what_it_can(run: Path):
    done = jaxmia("status gr*", run, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (done.returncode, done.stderr) == (0, "")
    assert "damaged: gr\\xf6\\xdfe/shadows/00000-00001.npz" in done.stdout
    done = jaxmia("score --out gr*", run, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "jaxmia: gr\\xf6\\xdfe/pool.npz: no such file\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", ["status gr*", "status gr* --json", "--version", "--help"])
def test_a_full_disk_behind_the_output_is_one_line(run: Path, arguments: str):
    done = jaxmia(arguments, run, "{} > /dev/full")
    assert done.stderr == "jaxmia: standard output: cannot be written: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_the_messages_ends_nothing(run: Path):
    code = (
        "import logging; from jaxmia.cli.display import show_messages; show_messages(logging.INFO); "
        "[logging.getLogger('jaxmia').info('lost') for _ in range(3)]; print('done')"
    )
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "{code}" 2> /dev/full'], capture_output=True, text=True, check=False
    )
    assert done.stdout == "done\n"


def test_a_working_directory_that_is_gone_is_one_line(tmp_path: Path):
    (tmp_path / "gone").mkdir()
    done = jaxmia("status run", tmp_path, "cd gone && rmdir ../gone && {}")
    assert done.stderr == "jaxmia: the working directory is gone; change to one that exists\n"
    assert done.returncode == 1


def test_a_user_without_a_home_has_a_cache_of_its_own(monkeypatch: pytest.MonkeyPatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME")
    folder = cache_folder()
    assert folder.is_dir() and folder == cache_folder()
    assert folder.stat().st_mode & 0o077 == 0, "nobody else can put a library there"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/jaxmia")
