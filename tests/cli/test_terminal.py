"""What the command line does where its surroundings are not as they should be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from jaxmia.cli import display
from jaxmia.cli.main import main
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
    assert done.stderr.startswith("jaxmia: gr\\xf6\\xdfe/pool.npz: no such file; ")


HOSTILE = "\x1b]0;owned\x07\u202e"
SHOWN = r"\x1b]0;owned\x07\u202e"


def _array_of_that_name(folder: Path) -> list[str]:
    np.savez(folder / "pool.npz", **{HOSTILE: np.zeros(1)})
    return ["score", "--out", str(folder)]


def _folder_of_that_name(folder: Path) -> list[str]:
    return ["status", str(folder / HOSTILE)]


def _variable_of_that_name(folder: Path) -> list[str]:
    files = {name: str(folder / "any.pt") for name in ("public", "private", "target")}
    (folder / "any.pt").touch()
    (folder / "config.yaml").write_text(json.dumps({"challenge": files}))
    (folder / "profile.yaml").write_text(r'environment: {"\e]0;owned\a\u202e\njaxmia": x}')
    return ["cluster", "slurm", f"--config={folder}/config.yaml", f"--out={folder}", "--jobs=1",
            f"--profile={folder}/profile.yaml"]  # fmt: skip


@pytest.mark.parametrize("bait", [_array_of_that_name, _folder_of_that_name, _variable_of_that_name])
def test_names_in_files_and_paths_do_not_steer_the_terminal(bait, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="1"):
        main(bait(tmp_path))
    told = capsys.readouterr().err
    assert told.rstrip("\n").isprintable(), "one line without control characters"
    assert SHOWN in told


def test_names_in_tables_stand_as_they_are(capsys: pytest.CaptureFixture[str]):
    name = f"[/red]:bomb:{HOSTILE}"
    table = Table(title=f"of {name}", caption=name, width=200)
    table.add_column(name)
    table.add_row(name)
    display.output(table)
    display.output(name)
    shown = capsys.readouterr().out
    assert shown.count("[/red]:bomb:" + SHOWN) == 5
    assert "\x1b" not in shown and "\u202e" not in shown


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
    assert done.stderr == "jaxmia: the working directory no longer exists; change to another one\n"
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


def test_a_relative_or_foreign_cache_folder_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Libraries are loaded from it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "jaxmia"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "jaxmia"
    folder.mkdir()
    folder.chmod(0o777)
    assert cache_folder() not in (folder, tmp_path / ".cache" / "jaxmia")
    folder.chmod(0o755)
    assert cache_folder() == folder
    monkeypatch.setattr("os.geteuid", lambda: folder.stat().st_uid + 1)
    assert cache_folder() != folder
