import subprocess
import sys

import pytest

AGAIN = """
import resource
import numpy as np
from jaxmia.training.devices import prepare_devices

prepare_devices()
np.ones(2**26, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**26, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="an allocator of Linux")
def test_freed_memory_is_used_again_without_page_faults():
    """64 MiB are 16,384 pages, or 32 huge ones."""
    told = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 16
