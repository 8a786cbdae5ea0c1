import os
import subprocess
import sys

import jax
import pytest

from jaxmia.config import Recipe
from jaxmia.data.preprocessing import Preprocessing
from jaxmia.errors import InputError
from jaxmia.provenance import available_memory
from jaxmia.training.trainer import make_trainer
from tests.warm import warm_python

AGAIN = """
import resource
import numpy as np
from jaxmia.training.devices import prepare_devices

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**26, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

prepare_devices()
faults()
print(min(faults() for _ in range(5)))  # other threads may have some in between
"""


@pytest.mark.skipif(sys.platform != "linux", reason="an allocator of Linux")
def test_freed_memory_is_used_again_without_page_faults():
    """64 MiB are 16,384 pages, or 32 huge ones."""
    told = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 16


MANY_AXES = """
import os, jax, jax.numpy as jnp
from jaxmia.training.devices import prepare_devices

prepare_devices()
left = jnp.ones((3, 1, 2, 2, 8, 8, 8))
print(jax.jit(lambda left, right: jnp.sum(left * right, axis=3))(left, left).sum(), os.environ["XLA_FLAGS"])
"""


@pytest.mark.parametrize(
    ("given", "then"),
    [
        (None, "--xla_cpu_experimental_ynn_fusion_type=-reduce"),
        ("--xla_cpu_use_xnnpack=false", "--xla_cpu_use_xnnpack=false --xla_cpu_experimental_ynn_fusion_type=-reduce"),
        ("--xla_cpu_experimental_ynn_fusion_type=", "--xla_cpu_experimental_ynn_fusion_type="),
    ],
)
def test_sums_over_arrays_of_many_axes_do_not_crash(given: str | None, then: str):
    """XLA's YNNPACK did on some CPUs."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"XLA_FLAGS": given} if given else {}
    found = subprocess.run([warm_python(), "-c", MANY_AXES], env=environment, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, f"6144.0 {then}\n")


@pytest.mark.parametrize(
    ("recipe", "shape", "match"),
    [
        ({"architecture": "wideresnet", "width": 16_384}, (32, 32, 3), r"width: a model takes [\d,.]+ GiB for weights"),
        ({"architecture": "cnn", "width": 16_384}, (8, 8, 1), "width: .*; choose a smaller network"),
        ({"architecture": "mlp", "hidden": (16_384,) * 300}, (30,), "hidden: .*GiB"),
    ],
)
def test_a_network_that_no_memory_holds_is_refused_in_one_line(
    recipe: dict, shape: tuple[int, ...], match: str, monkeypatch: pytest.MonkeyPatch
):
    """XLA would end the process instead."""
    monkeypatch.setattr("jaxmia.training.trainer.device_memory", lambda device: 2**34)
    with pytest.raises(InputError, match=rf"^shadow\.{match}"):
        make_trainer(Recipe(**recipe), shape, 10, Preprocessing(None, (0.5,), (0.5,)), dtype="float32")


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw"}, {"ema": 0.9}, {"architecture": "resnet8"}])
def test_a_network_is_refused_from_the_byte_on_that_memory_lacks(changes: dict, monkeypatch: pytest.MonkeyPatch):
    """What it takes is the state that training begins with, and gradients."""

    def make(available: int | None):
        monkeypatch.setattr("jaxmia.training.trainer.device_memory", lambda device: available)
        recipe = Recipe(**{"architecture": "cnn", "width": 4, **changes})
        return make_trainer(recipe, (8, 8, 1), 3, Preprocessing(None, (0.5,), (0.5,)))

    state = jax.eval_shape(make(None).init, jax.random.key(0))
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves([state, state["params"]]))
    make(needed)
    with pytest.raises(InputError, match=r"^shadow\.width: a model takes"):
        make(needed - 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_limit_of_the_process_is_what_is_available():
    free = available_memory()
    assert free and free > 2**20
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29)); "
        "from jaxmia.provenance import available_memory; print(available_memory())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(told.stdout) == 2**29


def test_small_programs_are_compiled_once_for_all_processes(tmp_path):
    code = (
        "import jax; from jaxmia.training.devices import prepare_devices; prepare_devices(); "
        "jax.monitoring.register_event_listener(lambda event, **_: print(event)); jax.jit(lambda x: x * 3 + 1)(2.0)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    run = [sys.executable, "-c", code]
    first, second = (
        subprocess.run(
            run, env=environment | {"XDG_CACHE_HOME": str(tmp_path)}, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    )
    assert "cache_hits" not in first
    assert "cache_hits" in second
