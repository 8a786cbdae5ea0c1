"""The wheel and the sdist hold all that a run needs outside a clone."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "from setuptools.build_meta import build_sdist, build_wheel; build_sdist('dist'); build_wheel('dist')"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, made from a copy of what git keeps of the two packages."""
    pytest.importorskip("setuptools")
    copy = tmp_path_factory.mktemp("package")
    for name in ("jaxmia", "bridge"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    subprocess.run([sys.executable, "-c", BUILD], cwd=copy, check=True, capture_output=True)
    return copy / "dist"


def test_both_hold_every_file_of_the_packages(built: Path):
    paths = [path for name in ("jaxmia", "bridge") for path in (ROOT / name).rglob("*")]
    files = {str(path.relative_to(ROOT)) for path in paths if path.is_file() and "__pycache__" not in path.parts}
    assert {"jaxmia/configs/quickstart.yaml", "jaxmia/models/native/layers.cc", "jaxmia/py.typed"} < files
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        assert files <= set(archive.namelist())
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert files | {"pyproject.toml", "README.md", "LICENSE"} <= names


def test_an_installed_wheel_writes_a_configuration_that_it_understands(built: Path, tmp_path: Path):
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from jaxmia.cli.main import main; from jaxmia.config import load_config; from pathlib import Path\n"
        "main(['init', 'own.yaml', *sys.argv[2:]])\n"
        "print(load_config(Path('own.yaml')), load_config.__code__.co_filename)"
    )
    for options in ([], ["--template", "tml26"]):
        command = [sys.executable, "-c", script, str(site), *options]
        printed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        assert "public=PosixPath('pub.pt')" in printed
        assert str(site) in printed
        (tmp_path / "own.yaml").unlink()
