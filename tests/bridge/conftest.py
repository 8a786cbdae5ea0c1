import sys

import pytest
import torch

from tests.bridge.samples import MembershipDataset, fields


@pytest.fixture(autouse=True)
def nothing_is_promoted_unasked(strict_promotion: None) -> None:
    """Holds for every test here."""


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Threads that wait for each other in tiny operations cost more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def without_onednn():
    """With AVX2, oneDNN in PyTorch 2.13 overwrites memory in the gradients of convolutions of four channels."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    yield
    torch.backends.mkldnn.enabled = before


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes keyword arguments as the attributes of a pickled `__main__.MembershipDataset`."""
    monkeypatch.setattr(sys.modules["__main__"], "MembershipDataset", MembershipDataset, raising=False)

    def write(name="pub.pt", **changes):
        data = MembershipDataset()
        data.__dict__ = {**fields(), **changes}
        torch.save(data, tmp_path / name)
        return tmp_path / name

    return write
