"""Attacks of the user's own: found by name, refused in one line, checked where they score, taking part in `auto`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from jaxmia.attacks import Calibrated, Evidence, Margin, check_attack, score_all, scores_of
from jaxmia.attacks.catalogue import named_attack, own_attack
from jaxmia.attacks.record import rebuild_attack, record_attack
from jaxmia.config import AttackConfig
from jaxmia.errors import InputError
from jaxmia.evaluation.selection import configured_attacks, select, select_attack
from jaxmia.validation import parse_as
from tests.attacks import naive
from tests.evaluation.test_selection import scripted

CODE = '''
import numpy as np

class Excess:
    """Margin above the mean of OUT models."""

    name = "excess"

    def __call__(self, evidence):
        return evidence.target[0] - evidence.out.mean[0]

class Demanding(Excess):
    def __init__(self, strength): ...

class Copycat(Excess):
    name = "margin"

class Nameless:
    def __call__(self, evidence):
        return evidence.target[0]

class Spaced(Excess):
    name = "my attack"

def function(evidence):
    return evidence.target[0]

ready = Excess()
'''


@pytest.fixture(autouse=True)
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the working directory, which is not on Python's path."""
    (tmp_path / "jaxmia_own_code.py").write_text(CODE)
    (tmp_path / "jaxmia_broken_code.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere", *__import__("sys").path])


@pytest.mark.parametrize("name", ["Excess", "ready"])
def test_an_attack_in_the_working_directory_is_found(name: str):
    evidence = naive.random_evidence()
    attack = named_attack(f"jaxmia_own_code:{name}")
    np.testing.assert_allclose(attack(evidence), Calibrated("identity")(evidence), rtol=1e-12)


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("no_such_module:Excess", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("jaxmia_broken_code:Excess", "ZeroDivisionError: division by zero"),
        ("jaxmia_own_code:Exces", "AttributeError: module 'jaxmia_own_code' has no attribute 'Exces'"),
        ("jaxmia_own_code:Demanding", "cannot be called without arguments: .* 'strength'"),
        ("jaxmia_own_code:Nameless", "a Nameless is not an attack, expected an object with a name"),
        ("jaxmia_own_code:function", "a function is not an attack, expected an object with a name"),
        ("jaxmia_own_code:Spaced", "a Spaced is named 'my attack', expected printable text without spaces"),
        ("jaxmia_own_code:Copycat", "is named 'margin', which is the name of a standard attack"),
        ("jaxmia_own_code:", "AttributeError: module 'jaxmia_own_code' has no attribute ''"),
    ],
)
def test_what_is_no_attack_is_refused_in_one_line(path: str, complaint: str):
    with pytest.raises(InputError, match=rf"^attack\.candidates: .*'{path}'.*{complaint}") as refusal:
        own_attack(path, "attack.candidates")
    assert "\n" not in str(refusal.value)


def test_a_class_is_no_attack_until_it_is_made():
    with pytest.raises(InputError, match="name: a class Margin is not an attack"):
        check_attack(Margin, "name")
    assert check_attack(Margin(), "name") == Margin()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("lira-onlin-tied", r"run.yaml: name: 'lira-onlin-tied' is unknown; did you mean 'lira-online-tied'\?"),
        ("mine.Attack", "run.yaml: name: 'mine.Attack' is unknown; allowed are auto, package.module:Class and the na"),
    ],
)
def test_a_misspelt_name_is_refused_when_the_configuration_is_read(name: str, complaint: str):
    with pytest.raises(InputError, match=complaint):
        parse_as(AttackConfig, {"name": name}, "run.yaml")


def test_a_configuration_imports_nothing_until_a_run_begins():
    section = parse_as(AttackConfig, {"name": "no_such:Attack", "candidates": ["no_such:Other"]}, "run.yaml")
    with pytest.raises(InputError, match=r"attack\.name: cannot import 'no_such:Attack'"):
        configured_attacks(section)
    with pytest.raises(InputError, match=r"candidates: .*'margin'.* must name attacks as package.module:Class"):
        parse_as(AttackConfig, {"candidates": ["margin"]}, "run.yaml")


@dataclass(frozen=True)
class Fixed:
    """Gives what it was made with."""

    scores: object
    name: str = "fixed"

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return np.asarray(self.scores)


@pytest.mark.parametrize(
    ("scores", "complaint"),
    [
        (np.zeros(39), r"attack fixed: gives float64 of shape \(39,\), expected one number for each of 40 samples"),
        (np.zeros((40, 1)), r"of shape \(40, 1\), expected one number"),
        (None, r"gives object of shape \(\), expected one number"),
        (np.where(np.arange(40) > 37, np.nan, 0), "attack fixed: gives NaN for sample 38 and 1 others"),
    ],
)
def test_scores_that_are_not_one_number_a_sample_are_refused(scores: object, complaint: str):
    attack = Fixed(scores)
    for score in (scores_of, score_all):
        with pytest.raises(InputError, match=complaint):
            score(attack, naive.random_evidence(samples=40))


def test_an_error_within_an_attack_names_it():
    @dataclass(frozen=True)
    class Broken:
        name: str = "broken"

        def __call__(self, evidence: Evidence) -> np.ndarray:
            raise KeyError("x")

    with pytest.raises(KeyError) as caught:
        scores_of(Broken(), naive.random_evidence(samples=40))
    assert caught.value.__notes__ == ["in the attack broken, called with Evidence(12 models, 2 views, 40 samples)"]


def test_scores_become_float64():
    scores = scores_of(Fixed(np.arange(40, dtype=np.int32)), naive.random_evidence(samples=40))
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(scores, np.arange(40))


def test_an_own_attack_takes_part_in_auto_and_wins_where_it_is_stronger():
    evidence, (strong,) = scripted({"own": ("a", 2.0)})
    selection = select_attack(evidence, AttackConfig(), [strong])
    assert "own" in selection.chosen.name
    assert [row.name for row in selection.results if row.name == "own"] == ["own"]
    assert rebuild_attack(record_attack(selection.chosen)) is None


def test_an_own_attack_that_fails_on_a_pseudo_target_is_named():
    evidence, (attack,) = scripted({"own": ("a", 1.0)})

    @dataclass(frozen=True)
    class Failing:
        name: str = "failing"

        def __call__(self, evidence: Evidence) -> np.ndarray:
            return attack(evidence)[: 1000 if len(evidence.shadows) < 12 else None]

    with pytest.raises(InputError, match=r"attack.name: auto: attack failing: gives float64 of shape \(1000,\)"):
        select_attack(evidence, AttackConfig(), [Failing()])


def test_candidates_of_one_name_are_refused():
    evidence, attacks = scripted({"own": ("a", 1.0)})
    with pytest.raises(InputError, match=r"attack\.candidates: 'own' is the name of 2 attacks"):
        select(evidence, [*attacks, *attacks], 0.05)


def test_candidates_of_one_name_are_refused_before_a_run_begins():
    section = parse_as(AttackConfig, {"candidates": ["jaxmia_own_code:Excess"] * 2}, "run.yaml")
    with pytest.raises(InputError, match=r"^attack\.candidates: '.*' is the name of 2 attacks$"):
        configured_attacks(section)
