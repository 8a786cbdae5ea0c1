import pytest

from jaxmia.machine.units import duration, size


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 KiB"), (2**20 - 2**10, "1023 KiB"), (2**20, "1 MiB"), (2**30 - 2**20, "1023 MiB"), (3 * 2**29, "1.5 GiB")],
)
def test_bytes_are_told_in_the_largest_unit_that_they_fill(count: int, words: str):
    assert size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0000123, "0.0123 ms"), (0.0456, "45.6 ms"), (0.9994, "999 ms"), (0.9996, "1.00 s"), (1.754, "1.75 s")],
)
def test_times_are_told_in_seconds_from_one_second(seconds: float, words: str):
    assert duration(seconds) == words
