import os
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxmia.models.native import build
from jaxmia.models.native.convolution import Window, forward, input_gradient, kernel_gradient
from jaxmia.models.norm import ensemble_norm
from tests.kernels import needs_kernels
from tests.warm import warm_python

pytestmark = needs_kernels

each_type = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
each_number = pytest.mark.parametrize("threads", [2, 3])


def random(shape: tuple[int, ...], dtype, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def convolved(inputs: jax.Array, kernels: jax.Array, window: Window, threads: int) -> list[jax.Array]:
    """Outputs and both gradients."""
    outputs = forward(inputs, kernels, window, threads)
    cotangents = random(outputs.shape, inputs.dtype, seed=1)
    height, width, tall, wide = *inputs.shape[2:4], *kernels.shape[1:3]
    return [
        outputs,
        input_gradient(cotangents, kernels, window, (height, width), threads),
        kernel_gradient(inputs, cotangents, window, (tall, wide), threads),
    ]


def assert_same(ours, theirs) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@each_number
@each_type
def test_convolutions_are_the_same_with_any_number_of_threads(threads: int, dtype):
    """On shapes that have enough work for all threads."""

    @given(
        models=st.integers(1, 2),
        samples=st.integers(60, 80),
        kernel=st.tuples(st.integers(2, 3), st.just(3)),
        strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
        channels=st.integers(24, 30),
        features=st.integers(36, 50),
        groups=st.just(1),
    )
    @example(
        models=2, samples=61, kernel=(3, 3), strides=(1, 1), channels=27, features=70, groups=1
    )  # minimal filtering
    @example(
        models=1, samples=60, kernel=(3, 3), strides=(1, 1), channels=130, features=150, groups=1
    )  # in bfloat16, too
    @example(models=1, samples=61, kernel=(3, 3), strides=(1, 1), channels=32, features=40, groups=3)
    @example(models=1, samples=60, kernel=(3, 3), strides=(1, 2), channels=20, features=36, groups=3)
    @example(models=2, samples=60, kernel=(3, 3), strides=(1, 1), channels=8, features=8, groups=5)
    @example(models=1, samples=60, kernel=(3, 3), strides=(2, 1), channels=4, features=4, groups=24)
    @example(models=1, samples=110, kernel=(5, 4), strides=(1, 2), channels=1, features=1, groups=70)
    @example(models=1, samples=100, kernel=(7, 7), strides=(1, 1), channels=1, features=1, groups=17)
    @settings(max_examples=6)
    def on(models, samples, kernel, strides, channels, features, groups) -> None:
        inputs = random((models, samples, 16, 17, groups * channels), dtype)
        kernels = random((models, *kernel, channels, groups * features), dtype)
        window = Window(strides, ((1, 0), (0, 1)), groups=groups)
        assert_same(convolved(inputs, kernels, window, threads), convolved(inputs, kernels, window, 1))

    on()


@each_number
@each_type
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("channels", [7, 16, 40])
def test_normalisation_is_the_same_with_any_number_of_threads(threads: int, dtype, adds: bool, channels: int):
    shape = (2, 2**20 // channels, channels)
    inputs, cotangents = random(shape, dtype), random(shape, dtype, seed=1)
    shortcut = random(shape, dtype, seed=2) if adds else None
    scale, bias = random((2, channels), jnp.float32), random((2, channels), jnp.float32, seed=1)

    def normalised(threads: int):
        def norm(*operands):
            return ensemble_norm("native", threads)(*operands, relu=True, epsilon=1e-5)

        (outputs, mean, var), pull = jax.vjp(jax.vmap(norm), inputs, shortcut, scale, bias)
        return outputs, mean, var, pull((cotangents, jnp.zeros_like(mean), jnp.zeros_like(var)))

    assert_same(normalised(threads), normalised(1))


def test_too_little_memory_is_an_error_of_every_thread():
    """The padded image of a stride so large has no address."""
    stride = 2**43
    inputs, kernels = random((1, 64, 2, 4, 128), jnp.float32), random((1, 1, 1, 128, 256), jnp.float32)
    window = Window((stride, 1), ((stride, 0), (0, 0)))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"RESOURCE_EXHAUSTED.*out of memory for the work"):
        jax.block_until_ready(forward(inputs, kernels, window, 2))
    forward(inputs, kernels, Window(), 2)


SHARE = """
#include <chrono>
#include <set>
#include <stdexcept>
#include "threads.h"

namespace ffi = xla::ffi;

// Marks each of the parts once and counts the threads that take any; part `failing` throws.
ffi::Error Share(ffi::ThreadPool pool, ffi::Result<ffi::Buffer<ffi::S64>> counts, int64_t threads, int64_t parts,
                 int64_t failing) {
  std::mutex mutex;
  std::set<std::thread::id> seen;
  std::fill(counts->typed_data(), counts->typed_data() + parts + 1, 0);
  try {
    jaxmia::Threads(pool, threads).Share(parts, [&](auto next) {
      for (int64_t part; (part = next()) < parts;) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        if (part == failing) throw std::runtime_error("part failed");
        const std::lock_guard<std::mutex> lock(mutex);
        counts->typed_data()[part] += 1;
        seen.insert(std::this_thread::get_id());
      }
    });
  } catch (const std::runtime_error& error) {
    return ffi::Error::Internal(error.what());
  }
  counts->typed_data()[parts] = seen.size();
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(share, Share, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Ret<ffi::Buffer<ffi::S64>>()
                              .Attr<int64_t>("threads").Attr<int64_t>("parts").Attr<int64_t>("failing"));
"""

PROGRAM = """
import ctypes
import sys

import jax
import numpy as np

PARTS = 20
library = ctypes.CDLL(sys.argv[1])
jax.ffi.register_ffi_target("share", jax.ffi.pycapsule(library.share), platform="cpu")


def share(device, failing=-1, threads=3):
    counts = jax.ffi.ffi_call("share", jax.ShapeDtypeStruct((PARTS + 1,), "int64"))
    return jax.jit(
        lambda: counts(threads=np.int64(threads), parts=np.int64(PARTS), failing=np.int64(failing)),
        out_shardings=jax.sharding.SingleDeviceSharding(device),
    )()


jax.config.update("jax_enable_x64", True)
devices = jax.local_devices()
assert len(devices) == 4
most = 0
for _ in range(100):  # a busy machine starts other threads late
    *counts, seen = share(devices[0])
    assert counts == [1] * PARTS and 1 <= seen <= 3, (counts, seen)
    most = max(most, seen)
    if most > 1:
        break
assert most > 1
*counts, seen = share(devices[0], threads=1)
assert counts == [1] * PARTS and seen == 1, (counts, seen)
for *counts, seen in jax.device_get([share(device) for device in devices * 3]):
    assert counts == [1] * PARTS and 1 <= seen <= 3, (counts, seen)
for failing in (0, 7, PARTS - 1):
    try:
        jax.block_until_ready(share(devices[0], failing))
    except jax.errors.JaxRuntimeError as error:
        assert "part failed" in str(error), error
    else:
        raise AssertionError(failing)
    assert share(devices[0])[:-1].tolist() == [1] * PARTS
"""


@pytest.mark.slow
def test_parts_are_shared_among_threads_and_devices(tmp_path):
    """Each part is taken once, also when all devices share parts at once, and the first error is told."""
    source, library = tmp_path / "share.cc", tmp_path / "share.so"
    source.write_text(SHARE)
    folders = [f"-I{folder}" for folder in (Path(build.__file__).parent, jax.ffi.include_dir())]
    compiler = str(build._compiler())
    subprocess.run([compiler, "-std=c++17", "-shared", "-fPIC", "-w", *folders, source, "-o", library], check=True)
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    subprocess.run([warm_python(), "-c", PROGRAM, str(library)], env=os.environ | {"XLA_FLAGS": flags}, check=True)
