"""The comparison of speeds on the zoo of networks."""

import json
from pathlib import Path

import jax
import pytest

from benchmarks import zoo_speed
from benchmarks.zoo_speed import ZOO, Result, main, page
from jaxmia.errors import InputError
from jaxmia.machine.bench import Row
from jaxmia.training.plan import plan_of
from tests.bridge.graph import conftest

TRIALS = [
    {"width": 8, "conv": "native", "images_per_second": 90.0},
    {"width": 8, "conv": "unrolled", "images_per_second": 100.0},
    {"width": 8, "conv": "sequential", "images_per_second": 150.0},
    {"width": 16, "conv": "sequential", "images_per_second": 160.0},
]
ROWS = [
    {"name": "eager, float32, 1 process", "images_per_second": 50.0, "failure": None},
    {"name": "eager, bfloat16, 1 process", "images_per_second": 80.0, "failure": None},
    {"name": "torch.compile, float32, 1 process", "images_per_second": None, "failure": "crashed: no compiler"},
]
ABOUT = {
    "batch": 8,
    "repeats": 1,
    "seconds": 0.1,
    "compiled": 1,
    "origin": {"device": "a CPU", "jax": "1", "torch": "2", "commit": "c"},
}


def test_the_table_sets_the_fastest_ways_side_by_side():
    lines = page(
        [Result("vit", "16 together", 160.0, TRIALS, ROWS), Result("table", "2 together", 9.0, TRIALS[:1], ROWS[2:])],
        ABOUT,
    )
    vit, table = lines.strip().splitlines()[-2:]
    assert vit == "| vit | 160 | 16 together | 100 | 150 | 80 | eager, bfloat16, 1 process | 2.00 |"
    assert table == "| table | 9 | 2 together | 90 | not tried | not tried | torch.compile, float32, 1 process |  |"


def test_every_network_of_the_zoo_is_measured():
    assert set(ZOO) == set(conftest.ZOO)
    with pytest.raises(InputError, match=r"^--networks: alexnet: unknown, allowed are lenet, "):
        main(Path("nowhere"), networks=("alexnet",))


def test_pytorch_is_compiled_where_it_is_fastest_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    timed = []

    def rows(contenders, repeats, seconds):
        timed.append([contender.name for contender in contenders])
        return [Row(name, "", 1, "", images_per_second=speed(name)) for name in timed[-1]]

    def speed(name: str) -> float:
        return 10.0 + 5 * ("bfloat16" in name) + 20 * ("processes" in name) + 100 * ("compile" in name)

    monkeypatch.setattr(zoo_speed, "_use_empty_cache", lambda: None)
    monkeypatch.setattr(zoo_speed, "_trainer", lambda name, batch: None)
    monkeypatch.setattr(
        zoo_speed, "_plan", lambda trainer: (plan_of(2, "native", tuple(jax.local_devices()[:1])), TRIALS)
    )
    monkeypatch.setattr(zoo_speed, "_timed", rows)
    monkeypatch.setattr("jaxmia.training.devices.core_count", lambda: 2)
    main(tmp_path, networks=("text",), batch=4, repeats=1, compiled=2)
    assert timed[0][0] == "jaxmia"
    assert len(timed[0]) == 5
    assert timed[1] == ["torch.compile, bfloat16, 2 processes", "torch.compile, float32, 2 processes"]
    (found,) = json.loads((tmp_path / "zoo_cpu.json").read_text())["results"]
    assert (found["ours"], len(found["peers"])) == (10, 6)
    assert "| text | 10 | " in (tmp_path / "zoo_cpu.md").read_text()
