import json

import jax.numpy as jnp
import pytest

from bridge.product import product_flops_per_second as in_torch
from jaxmia.errors import InputError
from jaxmia.machine.bench import (
    OTHER,
    OURS,
    PYTORCH,
    Constants,
    Contender,
    describe,
    load,
    memory,
    name_of,
    page,
    plot,
    run,
    verdict,
)
from jaxmia.machine.ceiling import product_flops_per_second
from jaxmia.training.speed import PeerError
from tests.warm import warm_python

SCALE = Constants(flops_per_image=100.0, ceilings={"float32": 10_000.0, "bfloat16": 20_000.0}, model_images=1_000)
SUBJECT = {
    "shape": (8, 8, 1),
    "shadow": {"architecture": "mlp", "width": 64, "batch_size": 32},
    "repeats": 3,
    "seconds": 1.0,
}


class Meter:
    """Shows the given speeds, in turns with others; raises those that are errors."""

    def __init__(self, rates, log=None, name=""):
        self._rates, self._log, self._name = iter(rates), [] if log is None else log, name

    bytes = 2**20

    def warm_up(self):
        return 7.0

    def images_per_second(self, seconds):
        self._log.append((self._name, seconds))
        rate = next(self._rates)
        if isinstance(rate, Exception):
            raise rate
        return rate


def contender(name, kind, rates, width=1, precision="float32", log=None):
    return Contender(name, kind, width, precision, lambda: Meter(rates, log, name))


def test_medians_of_turns():
    log = []
    contenders = [
        contender("a", OURS, [20.0, 5.0, 10.0], 4, log=log),
        contender("b", PYTORCH, [10.0, 10.0, 10.0], log=log),
    ]
    first, second = run(contenders, SCALE, repeats=3, seconds=0.25)
    assert log == [("a", 0.25), ("b", 0.25)] * 3
    assert (first.images_per_second, first.low, first.high) == (10.0, 5.0, 20.0)
    assert first.models_per_hour == pytest.approx(36.0)
    assert (first.compile_seconds, first.bytes, first.failure) == (7.0, 2**20, None)
    assert second.images_per_second == 10.0


def test_the_ceiling_is_that_of_the_precision():
    contenders = [contender(name, PYTORCH, [50.0], precision=name) for name in SCALE.ceilings]
    assert [row.share_of_ceiling for row in run(contenders, SCALE, repeats=1)] == [0.5, 0.25]


def test_a_contender_that_does_not_fit_has_no_figure():
    def fail():
        raise MemoryError

    (row,) = run([Contender("big", OURS, 64, "float32", fail)], SCALE, repeats=1)
    assert (row.images_per_second, row.failure) == (None, "out of memory")


def test_a_crash_is_told_and_the_others_go_on():
    died = PeerError("crashed: ImportError: no compiler")
    contenders = [
        contender("a", OURS, [20.0, 20.0]),
        contender("b", PYTORCH, [10.0, died]),
    ]
    rows = run(contenders, SCALE, repeats=2)
    assert [(row.images_per_second, row.failure) for row in rows] == [(20.0, None), (None, str(died))]
    assert "| b | 1 | crashed: ImportError: no compiler | | | | |" in page(describe(rows, SCALE, SUBJECT))


def test_a_mistake_of_our_own_is_no_crash_of_a_peer():
    with pytest.raises(KeyError, match="typo"):
        run([contender("a", OURS, [KeyError("typo")])], SCALE, repeats=1)


def test_each_way_has_a_name_of_its_own():
    assert [name_of(lowering, convolutional=False) for lowering in ("native", "unrolled")] == ["native", "vmap"]
    assert [name_of(lowering, convolutional=True) for lowering in ("native", "unrolled")] == ["native", "unrolled"]


def test_a_page_tells_rates_and_the_ratio_of_the_fastest():
    contenders = [
        contender("a", OURS, [20.0], 4),
        contender("c", OURS, [15.0], 8),
        contender("eager", PYTORCH, [8.0]),
        contender("compiled", PYTORCH, [40.0], precision="bfloat16"),
        contender("plain", OTHER, [80.0]),
    ]
    text = page(describe(run(contenders, SCALE, repeats=1), SCALE, SUBJECT))
    assert text.startswith("# Training throughput: mlp of width 64 on ")
    assert "images of 8 x 8 x 1, batch 32: images a second" in text
    assert "| a | 4 | 20 | 20 - 20 | 20% | 7.0 s | 1 MiB |" in text
    assert "jaxmia at its fastest (a, 4 models, 20 images/s) reaches 0.50 times" in text
    assert "PyTorch at its fastest (compiled, 40 images/s)." in text


def test_without_pytorch_there_is_no_ratio():
    result = describe(run([contender("a", OURS, [20.0])], SCALE, repeats=1), SCALE, SUBJECT)
    assert verdict(result["rows"]) is None


def test_memory_in_words():
    assert [memory(count) for count in (None, 2**20, 3 * 2**29)] == ["", "1 MiB", "1.5 GiB"]


def test_what_is_written_is_read_back_and_drawn(tmp_path):
    rows = run([contender("a", OURS, [20.0], 4), contender("b", PYTORCH, [10.0])], SCALE, repeats=1)
    result = describe(rows, SCALE, {"shadow": {"architecture": "cnn"}})
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(result))
    assert load(path) == result
    plot(result, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read as JSON: Expecting value"),
        ("[]", "is not a result of `jaxmia bench`: lacks subject, origin or rows"),
        ('{"rows": 1}', "is not a result of `jaxmia bench`: lacks subject, origin or rows"),
    ],
)
def test_what_is_no_measurement_is_refused(tmp_path, text, reason):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"x.json: {reason}"):
        load(path)


def test_a_missing_measurement_is_named_with_what_makes_it(tmp_path):
    with pytest.raises(InputError, match=r"y.json: no such file; `jaxmia bench --out DIR` writes it"):
        load(tmp_path / "y.json")


@pytest.mark.slow
def test_ceilings_come_from_two_libraries(monkeypatch):
    monkeypatch.setattr("jaxmia.machine.ceiling.SIZES", {"cpu": (64,)})
    monkeypatch.setattr("jaxmia.machine.ceiling.fastest", lambda action: action() is not None and 1e-9)
    assert product_flops_per_second(jnp.dtype("float32")) == pytest.approx(2 * 64**3 * 1e9)
    monkeypatch.setattr("sys.executable", warm_python())
    theirs = in_torch("cpu")
    assert theirs.keys() == {"float32", "bfloat16"}
    assert min(theirs.values()) > 1e6
    with pytest.raises(PeerError, match=r"crashed: .*nowhere"):
        in_torch("nowhere")
