import resource
import subprocess
import sys

import pytest

from jaxmia.errors import InputError
from jaxmia.training import limits
from jaxmia.training.limits import check_address_space
from tests.warm import warm_python

MIB = 2**20


def limit_to(monkeypatch: pytest.MonkeyPatch, limit: int, peak: int | None) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    monkeypatch.setattr(limits, "_peak_address_space", lambda: peak)


def test_a_process_is_refused_from_the_byte_on_that_it_came_too_close(monkeypatch):
    limit_to(monkeypatch, 1024 * MIB, 768 * MIB)
    check_address_space()
    limit_to(monkeypatch, 1024 * MIB, 768 * MIB + 1)
    with pytest.raises(
        InputError, match=r"^memory: this process took 768 MiB of .* \(ulimit -v\) is 1024 MiB: .* 256 MiB"
    ):
        check_address_space()


@pytest.mark.parametrize(("limit", "peak"), [(resource.RLIM_INFINITY, 2**62), (1, None)], ids=["no limit", "untold"])
def test_what_is_not_limited_or_not_known_is_not_refused(monkeypatch, limit: int, peak: int | None):
    limit_to(monkeypatch, limit, peak)
    check_address_space()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("taken", [0, 600])
def test_the_largest_size_counts_even_if_memory_was_given_back(taken: int):
    code = f"""
import mmap, resource
from jaxmia.errors import InputError
from jaxmia.training.limits import _peak_address_space, check_address_space

limit = _peak_address_space() + {800 * MIB}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
if {taken}:
    mmap.mmap(-1, {taken * MIB}).close()
try:
    check_address_space()
    print("trusted")
except InputError as error:
    print(error)
"""
    told = subprocess.run([warm_python(), "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith("memory: this process took" if taken else "trusted")
