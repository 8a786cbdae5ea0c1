import pytest

from jaxmia.machine.units import size


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 KiB"), (2**20 - 2**10, "1023 KiB"), (2**20, "1 MiB"), (2**30 - 2**20, "1023 MiB"), (3 * 2**29, "1.5 GiB")],
)
def test_bytes_are_told_in_the_largest_unit_that_they_fill(count: int, words: str):
    assert size(count) == words
