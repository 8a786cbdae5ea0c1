import json

import pytest

from jaxmia.errors import InputError
from jaxmia.machine.bench import OURS, PEER, Contender, Scale, describe, load, memory, page, plot, run

SCALE = Scale(flops_per_image=100.0, ceiling=10_000.0, model_images=1_000)


class Clock:
    """Takes the given times, in turns with others."""

    def __init__(self, images, times, log, name):
        self.images, self._times, self._log, self._name = images, iter(times), log, name

    bytes = 2**20

    def warm_up(self):
        return 7.0

    def seconds(self):
        self._log.append(self._name)
        return next(self._times)


def test_medians_of_turns():
    log = []
    contenders = [
        Contender("a", OURS, 4, lambda: Clock(20, [1.0, 4.0, 2.0], log, "a")),
        Contender("b", PEER, 1, lambda: Clock(10, [1.0, 1.0, 1.0], log, "b")),
    ]
    first, second = run(contenders, SCALE, repeats=3)
    assert log == ["a", "b"] * 3
    assert (first.images_per_second, first.low, first.high) == (10.0, 5.0, 20.0)
    assert first.models_per_hour == pytest.approx(36.0)
    assert first.share_of_ceiling == pytest.approx(0.1)
    assert (first.compile_seconds, first.bytes) == (7.0, 2**20)
    assert second.images_per_second == 10.0


def test_a_contender_that_does_not_fit_has_no_figure():
    def fail():
        raise MemoryError

    (row,) = run([Contender("big", OURS, 64, fail)], SCALE, repeats=1)
    assert row.images_per_second is None


def test_a_page_tells_rates_and_ratios():
    contenders = [
        Contender("a", OURS, 4, lambda: Clock(20, [1.0], [], "a")),
        Contender("b", PEER, 1, lambda: Clock(8, [1.0], [], "b")),
    ]
    subject = {
        "shape": (8, 8, 1),
        "shadow": {"architecture": "mlp", "width": 64, "batch_size": 32},
        "dtype": "float32",
    }
    text = page(describe(run(contenders, SCALE, repeats=1), SCALE, subject))
    assert text.startswith("# Training throughput: mlp of width 64 on ")
    assert "images of 8 x 8 x 1, batch 32, float32" in text
    assert "| a | 4 | 20 | 20 - 20 | 20% | 7.0 s | 1 MiB |" in text
    assert "The best of jaxmia: 2.50 over b." in text


def test_memory_in_words():
    assert [memory(count) for count in (None, 2**20, 3 * 2**29)] == ["", "1 MiB", "1.5 GiB"]


def test_what_is_written_is_read_back_and_drawn(tmp_path):
    rows = run([Contender("a", OURS, 4, lambda: Clock(20, [1.0], [], "a"))], SCALE, repeats=1)
    result = describe(rows, SCALE, {"shadow": {"architecture": "cnn"}, "dtype": "float32"})
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(result))
    assert load(path) == result
    plot(result, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read as JSON: Expecting value"),
        ("[]", "is no JSON of `jaxmia bench`: lacks subject, origin or rows"),
        ('{"rows": 1}', "is no JSON of `jaxmia bench`: lacks subject, origin or rows"),
    ],
)
def test_what_is_no_measurement_is_refused(tmp_path, text, reason):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"x.json: {reason}"):
        load(path)


def test_a_missing_measurement_is_named_with_what_makes_it(tmp_path):
    with pytest.raises(InputError, match=r"y.json: no such file; `jaxmia bench --out DIR` makes it"):
        load(tmp_path / "y.json")
