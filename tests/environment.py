"""Sets what JAX reads when it is imported: jaxtyping imports it with the first module whose arrays it checks."""

import os
import shutil
import tempfile
from pathlib import Path

from jaxmia.files import atomic_write
from jaxmia.provenance import digest, processor

_KEPT = Path(__file__).parents[1] / ".pytest_cache"
_PROGRAMS = str(_KEPT / "programs" / digest(processor().encode()))
KERNELS = _KEPT / "kernels"
_QUICK_COMPILATION = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_experimental_ynn_fusion_type=-reduce",  # as `prepare_devices` sets it
)
OF_A_TERMINAL = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
"""Variables that change what commands print; a shell or a CI system may set them."""


def _environment(common: str) -> dict[str, str]:
    """Variables of pytest's workers and of all processes that tests start; JAX reads them when it is imported.

    Plans, kernels and compiled programs are shared. Kernels and programs stay for the next run: they are found by their
    content, JAX's version and the flags. Most programs of the tests are compiled for a few small steps: so LLVM does
    not optimise what XLA compiles, and XLA writes it for LLVM at once, by way of neither MLIR nor parts to be compiled
    in parallel, which takes a fourth of the time. Our own kernels are compiled as users have them. PyTorch gets one
    thread, as each core has a worker.
    """
    return {
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "XDG_CACHE_HOME": common,
        "JAX_COMPILATION_CACHE_DIR": _PROGRAMS,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *_QUICK_COMPILATION]).strip(),
    }


def _new_cache() -> Path:
    """A common cache with the kernels of the run before."""
    cache = Path(tempfile.mkdtemp(prefix="jaxmia-cache-"))
    if KERNELS.exists():
        shutil.copytree(KERNELS, cache / "jaxmia")
    return cache


def remove_cache() -> None:
    """Removes the common cache; kernels that were compiled in this run are kept in place of those before."""
    cache = Path(os.environ["XDG_CACHE_HOME"])
    before = {path.name for path in KERNELS.glob("*")}
    if compiled := [path for path in (cache / "jaxmia").glob("kernels-*.so") if path.name not in before]:
        for path in compiled:
            with atomic_write(KERNELS / path.name) as file:
                file.write(path.read_bytes())
        for name in before:
            (KERNELS / name).unlink(missing_ok=True)
    shutil.rmtree(cache, ignore_errors=True)


for name in OF_A_TERMINAL:
    os.environ.pop(name, None)
if os.environ.get("JAX_COMPILATION_CACHE_DIR") != _PROGRAMS:  # else these are the variables of the tests' process
    os.environ |= _environment(str(_new_cache()))
