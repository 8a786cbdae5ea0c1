from types import SimpleNamespace

import pytest

from jaxmia.leaderboard import client


@pytest.fixture
def passed(monkeypatch):
    """Seconds for which the client has waited, in a list of one; waiting takes no time."""
    seconds = [0.0]
    clocks = SimpleNamespace(monotonic=lambda: seconds[0], sleep=lambda waited: seconds.append(seconds.pop() + waited))
    monkeypatch.setattr(client, "time", clocks)
    return seconds
