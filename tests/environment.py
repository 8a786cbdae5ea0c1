"""Sets what JAX reads when it is imported: jaxtyping imports it with the first module whose arrays it checks."""

import os
import tempfile
from pathlib import Path

from jaxmia.provenance import digest, processor

_PROGRAMS = str(Path(__file__).parents[1] / ".pytest_cache/programs" / digest(processor().encode()))
_QUICK_COMPILATION = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_experimental_ynn_fusion_type=-reduce",  # as `prepare_devices` sets it
)


def _environment(common: str) -> dict[str, str]:
    """Variables of pytest's workers and of all processes that tests start; JAX reads them when it is imported.

    Plans, kernels and compiled programs are shared. Programs stay for the next run: JAX finds them by their content,
    its version and its flags. Most programs of the tests are compiled for a few small steps: so LLVM does not optimise
    what XLA compiles, and XLA writes it for LLVM at once, by way of neither MLIR nor parts to be compiled in parallel,
    which takes a fourth of the time. Our own kernels are compiled as users have them. PyTorch gets one thread, as
    each core has a worker.
    """
    return {
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": common,
        "JAX_COMPILATION_CACHE_DIR": _PROGRAMS,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *_QUICK_COMPILATION]).strip(),
    }


if os.environ.get("JAX_COMPILATION_CACHE_DIR") != _PROGRAMS:  # else these are the variables of the tests' process
    os.environ |= _environment(tempfile.mkdtemp(prefix="jaxmia-cache-"))
