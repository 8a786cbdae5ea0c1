import pytest

from bridge.peers import Served
from bridge.trainer import Recipe
from jaxmia.models import Network


@pytest.mark.slow
@pytest.mark.parametrize("width", [0, 3])
def test_a_peer_is_timed_in_a_process_of_its_own(width):
    peer = Served(Network("cnn", (8, 8, 1), 10, width=4), Recipe(batch_size=8), width)
    assert peer.images == (3 * 8 if width else 2 * 8)
    assert peer.warm_up() >= 0
    assert peer.seconds() > 0
