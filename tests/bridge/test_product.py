import pytest
import torch

from bridge import product


def test_sizes_end_with_the_first_that_is_slow(monkeypatch: pytest.MonkeyPatch):
    times = {8: 0.125, 16: 0.5}
    monkeypatch.setattr(product, "SIZES", {"cpu": (*times, 32)})
    seconds = iter(times.values())
    monkeypatch.setattr(product, "fastest", lambda multiply, least: multiply() or next(seconds))
    assert product._rate(torch.device("cpu"), torch.float32) == 2 * 16**3 / 0.5
