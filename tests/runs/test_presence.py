import json
import threading
from pathlib import Path

import pytest

from jaxmia.errors import InputError
from jaxmia.files import write_text
from jaxmia.runs import presence as module
from jaxmia.runs.claims import Claims
from jaxmia.runs.presence import presence

KEY, OTHER = {"seed": 3, "shadow": {"epochs": 4}}, {"seed": 3, "shadow": {"epochs": 5}}


def test_one_that_trains_something_else_is_refused_by_name_for_as_long_as_the_other_is_there(tmp_path: Path):
    refusal = pytest.raises(InputError, match=r"process \d+ of .*: shadow\.epochs is 4 there and 5 here; use another")
    with presence(tmp_path, KEY), presence(tmp_path, KEY), refusal, presence(tmp_path, OTHER):
        pytest.fail("it is let in")
    with presence(tmp_path, OTHER):
        (own,) = tmp_path.iterdir()
        assert json.loads(own.read_text())["cache_key"] == OTHER
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_start_at_the_same_moment_one_is_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each has announced itself before either looks, so that both withdraw at first."""
    both, first = threading.Barrier(2), threading.local()

    def announce(path: Path, text: str) -> None:
        write_text(path, text)
        if not hasattr(first, "announced"):
            first.announced = True
            both.wait()

    monkeypatch.setattr(module, "write_text", announce)
    inside, refused = [], threading.Event()

    def start(key: dict) -> None:
        try:
            with presence(tmp_path, key):
                inside.append(key)
                assert refused.wait(60)
        except InputError:
            refused.set()

    threads = [threading.Thread(target=start, args=(key,)) for key in (KEY, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) == 1
    assert refused.is_set()


@pytest.mark.parametrize("left", ["", "[]", '{"cache_key": {"seed": 9}}', "killed"])
def test_what_a_process_that_ended_has_left_refuses_nobody(tmp_path: Path, left: str):
    with presence(tmp_path, KEY):
        (own,) = tmp_path.iterdir()
        content = json.loads(own.read_text()) | {"started": "1"}
    (tmp_path / "0123.process").write_text(json.dumps(content) if left == "killed" else left)
    with presence(tmp_path, OTHER):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ([] if left == "killed" else ["0123.process"])


def test_a_process_of_another_machine_refuses_other_configurations_only_until_its_file_is_removed(tmp_path: Path):
    """Whether it lives cannot be known, so the message says what to do if it has ended."""
    with presence(tmp_path, KEY):
        (own,) = tmp_path.iterdir()
        content = json.loads(own.read_text()) | {"machine": "another", "host": "far"}
    left = tmp_path / "0123.process"
    left.write_text(json.dumps(content))
    assert Claims(tmp_path).others() == [], "it claims no models"
    with presence(tmp_path, KEY):
        pass
    assert list(tmp_path.iterdir()) == [left]
    refusal = rf"^{left}: process \d+ of far trains .*, or remove this file if that process has ended$"
    with pytest.raises(InputError, match=refusal), presence(tmp_path, OTHER):
        pytest.fail("it is let in")
    left.unlink()
    with presence(tmp_path, OTHER):
        pass
