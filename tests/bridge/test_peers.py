import pytest

from bridge.peers import SubprocessPeer, Way
from bridge.trainer import TorchRecipe
from jaxmia.models import Network


@pytest.mark.slow
@pytest.mark.parametrize(("way", "width"), [("one by one", 1), ("torch.func", 3), ("vmap", 3)])
def test_a_peer_is_timed_in_a_process_of_its_own(way: Way, width: int):
    peer = SubprocessPeer(way, Network("cnn", (8, 8, 1), 10, width=4), TorchRecipe(batch_size=8), width)
    assert peer.warm_up() >= 0
    assert peer.seconds() > 0
    assert peer.images % (width * 8) == 0
    assert peer.images > 0
