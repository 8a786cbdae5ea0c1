import sys
from pathlib import Path

import pytest

from jaxmia.errors import InputError
from jaxmia.plugins import import_plugin, is_plugin


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return tmp_path


def test_a_module_of_the_working_directory_is_found(here: Path):
    (here / "plugged").mkdir()
    (here / "plugged" / "inner.py").write_text("answer = 42\n")
    assert import_plugin("plugged.inner:answer", "attack.name") == 42


def test_names_of_plugins_are_told_from_built_in_ones():
    assert is_plugin("mine:Attack")
    assert not is_plugin("lira-online")


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("plug_absent:thing", None, "ModuleNotFoundError: No module named 'plug_absent'"),
        ("plug_empty:thing", "", "AttributeError: module 'plug_empty' has no attribute 'thing'"),
        ("plug_syntax:thing", "def thing(:\n", "SyntaxError: "),
        ("plug_raises:thing", "raise RuntimeError('no\\nlicence')\n", "RuntimeError: no;"),
        (":thing", None, "ValueError: Empty module name"),
    ],
)
def test_what_cannot_be_imported_is_told_in_one_line(here: Path, name: str, source: str | None, reason: str):
    if source is not None:
        (here / f"{name.partition(':')[0]}.py").write_text(source)
    with pytest.raises(InputError, match=rf"^shadow\.architecture: cannot import '{name}': {reason}") as caught:
        import_plugin(name, "shadow.architecture")
    assert "\n" not in str(caught.value)
