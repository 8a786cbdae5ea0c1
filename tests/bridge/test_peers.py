import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.peers import Peer, Way, find_peers
from jaxmia.config import Recipe
from jaxmia.models import Network
from jaxmia.training.speed import PeerError
from tests.warm import warm_python

NETWORK = Network("cnn", (8, 8, 1), 10, width=4)
RECIPE = Recipe(architecture="cnn", batch_size=8, precision="float32")


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch):
    """Peers need not import what takes seconds."""
    monkeypatch.setattr(sys, "executable", warm_python())


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("way", "width", "processes"), [("eager", 1, 1), ("eager", 1, 2), ("torch.func", 3, 1), ("vmap", 3, 1)]
)
def test_a_peer_is_timed_in_processes_of_its_own(way: Way, width: int, processes: int):
    started = Peer(way, NETWORK, RECIPE, width=width, processes=processes).start()
    assert started.warm_up() >= 0
    assert started.images_per_second(0.2) > 1


def test_a_cpu_is_asked_in_every_way_that_it_has():
    found = find_peers(NETWORK, RECIPE, "cpu", 2)
    names = [peer.name for peer in found]
    assert len(names) == len(set(names)) == 10
    for way in ("eager", "torch.compile"):
        for precision in ("float32", "bfloat16"):
            assert {f"PyTorch {way}, {precision}", f"PyTorch {way}, {precision}, 2 processes"} <= set(names)
    assert all(f", {peer.recipe.precision}" in peer.name for peer in found)


def test_one_process_serves_a_gpu_and_a_single_core():
    for device, cores in (("cuda", 8), ("cpu", 1)):
        assert {peer.processes for peer in find_peers(NETWORK, RECIPE, device, cores)} == {1}


def test_what_a_peer_does_not_do_it_is_not_timed_at():
    adamw = RECIPE.model_copy(update={"optimizer": "adamw"})
    assert "torch.func" in {peer.way for peer in find_peers(NETWORK, RECIPE, "cpu", 1)}
    assert "torch.func" not in {peer.way for peer in find_peers(NETWORK, adamw, "cpu", 1)}


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_crash_is_told_by_its_last_line():
    with pytest.raises(PeerError, match=r"^crashed: RuntimeError: .*nowhere"):
        replace(Peer("eager", NETWORK, RECIPE), device="nowhere").start().warm_up()


@pytest.mark.slow
def test_a_peer_runs_nothing_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ran = tmp_path / "ran"
    for name in ("bridge", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(ran)!r}, 'w')\nraise ImportError('foreign')")
    monkeypatch.chdir(tmp_path)
    assert Peer("eager", NETWORK, RECIPE).start().warm_up() >= 0
    assert not ran.exists()
