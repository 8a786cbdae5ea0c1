import json
import sys
from dataclasses import asdict, dataclass

import numpy as np
import pytest
from pydantic import TypeAdapter

from jaxmia.attacks import Aligned, Attack, Evidence, LiraOnline, Margin, PerClass, RankFusion, Rmia
from jaxmia.attacks.catalogue import standard_attacks
from jaxmia.attacks.record import AttackRecord, rebuild_attack, record_attack
from jaxmia.errors import InputError

RECORD = TypeAdapter(AttackRecord)


@dataclass(frozen=True)
class Own:
    strength: float = 1.0
    weights: object = None
    name: str = "own"

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return self.strength * evidence.target[0]


def through_json(record: AttackRecord) -> AttackRecord:
    return RECORD.validate_python(json.loads(json.dumps(asdict(record), allow_nan=False)))


@pytest.mark.parametrize(
    "attack",
    [
        *standard_attacks(),
        Rmia(gamma=3.5, offline=0.25),
        Aligned(LiraOnline("tied")),
        RankFusion((Margin(), Rmia(offline=0.3))),
        PerClass(Aligned(RankFusion((LiraOnline("global", "identity"), PerClass(Margin()))))),
    ],
    ids=lambda attack: attack.name,
)
def test_an_attack_is_made_again_from_its_record(attack: Attack):
    assert rebuild_attack(through_json(record_attack(attack))) == attack


def test_a_record_names_the_class_and_every_parameter():
    assert asdict(record_attack(Aligned(LiraOnline("tied")))) == {
        "kind": "Aligned",
        "parameters": {"attack": {"kind": "LiraOnline", "parameters": {"variance": "tied", "views": "mean"}}},
    }


def test_an_own_attack_is_recorded_by_its_place_and_never_imported():
    record = record_attack(Own(weights=np.ones(2)))
    assert asdict(record) == {
        "kind": "tests.attacks.test_record:Own",
        "parameters": {"strength": 1.0, "weights": "array([1., 1.])", "name": "own"},
    }
    nested = Own(weights=((1, 0.5), [Margin()]))
    assert record_attack(nested).parameters["weights"] == ("(1, 0.5)", "[Margin()]")
    for own in (Own(), nested, Aligned(Own()), RankFusion((Margin(), PerClass(Own())))):
        assert rebuild_attack(through_json(record_attack(own))) is None
    hostile = AttackRecord("this:poem", {})
    assert rebuild_attack(hostile) is None
    assert "this" not in sys.modules


def test_an_own_class_that_goes_by_a_standard_name_is_not_taken_for_it():
    namesake = type("Margin", (Own,), {})
    assert record_attack(namesake()).kind == "tests.attacks.test_record:Margin"


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (AttackRecord("Evidence", {}), r"attack_record\.kind: 'Evidence' is unknown; allowed are Adaptive, Aligned, "),
        (AttackRecord("a\x1b[2J", {}), r"attack_record\.kind: 'a\?\[2J' is unknown"),
        (AttackRecord("Margin", {"x": 1}), r"attack_record\.parameters: Margin: .*unexpected keyword argument 'x'"),
        (AttackRecord("Rmia", {"gamma": "wide"}), r"attack_record\.parameters: Rmia: .*'>=' not supported"),
        (AttackRecord("LiraOnline", {"views": "all"}), r"^LiraOnline: views: 'all' is none of"),
        (AttackRecord("Aligned", {"attack": "margin"}), r"Aligned: attack is 'margin', expected an attack$"),
        (
            AttackRecord("Aligned", {"attack": (AttackRecord("Margin", {}),)}),
            r"Aligned: attack is .*expected an attack$",
        ),
        (
            AttackRecord("RankFusion", {"attacks": AttackRecord("Margin", {})}),
            r"attacks is Margin\(\), expected attacks$",
        ),
        (AttackRecord("RankFusion", {"attacks": ()}), r"RankFusion: attacks: is empty"),
        (AttackRecord("Aligned", {}), r"Aligned: .*missing .* argument: 'attack'"),
    ],
)
def test_a_record_that_describes_no_attack_is_one_line(record: AttackRecord, complaint: str):
    with pytest.raises(InputError, match=complaint) as caught:
        rebuild_attack(record)
    assert "\n" not in str(caught.value)
