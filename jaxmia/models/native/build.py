"""Compiles the C++ kernels and registers them with XLA."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxmia.errors import UnwritableFile
from jaxmia.files import atomic_write, cache_folder
from jaxmia.provenance import digest, instruction_set

logger = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
_TARGETS = (
    "jaxmia_attention_forward",
    "jaxmia_attention_backward",
    "jaxmia_conv_forward",
    "jaxmia_conv_input_gradient",
    "jaxmia_conv_kernel_gradient",
    "jaxmia_dense_forward",
    "jaxmia_dense_backward",
    "jaxmia_norm_forward",
    "jaxmia_norm_backward",
    "jaxmia_sgd",
)
_INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512vl", "avx512_bf16", "amx_bf16")
"""Instructions that make the kernels faster where processor and compiler have them, by Linux's names."""
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-w")
# The first that the compiler accepts is used: Clang on Arm knows only the second, and GCC compiles for any x86 with it.
_MACHINES = ("-march=native", "-mcpu=native")
_PATIENCE = 600
_SEAL_BYTES = 32


@functools.cache
def unavailable() -> str | None:
    """Compiles and registers the kernels; returns why they are unavailable, or None if they are available.

    Compiling takes some seconds, once for each type of machine; the library is kept in the cache folder. The compiler
    is `$CXX`, or the first of c++, g++ and clang++ that is found.
    """
    compiler = _compiler()
    if compiler is None:
        return f"no C++ compiler found among $CXX, {', '.join(_COMPILERS)}"
    try:
        library = _load(compiler)
    except subprocess.SubprocessError as error:
        last = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        return f"{compiler} cannot compile the kernels: {last}"
    except (OSError, UnwritableFile) as error:
        return f"the compiled kernels cannot be saved or loaded: {error}"
    for name in _TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return None


def shortcoming() -> str | None:
    """What keeps the kernels from being as fast as this processor allows, for the user; None if nothing does."""
    if reason := unavailable():
        return f"not used, so that training may be slower, and precision auto is float32: {reason}"
    compiled = _reported("jaxmia_instructions").split()
    lacking = [name for name in _INSTRUCTIONS if name in instruction_set().split() and name not in compiled]
    if not lacking:
        return None
    return (
        f"compiled by {_compiler()} ({_reported('jaxmia_compiler')}) without {', '.join(lacking)}, which this "
        "processor has, so that training is slower; $CXX can name another compiler"
    )


@functools.cache
def warn_of_shortcoming() -> None:
    """Warns, once in a process, if the kernels are not as fast as this processor allows."""
    if text := shortcoming():
        logger.warning(f"kernels: {text}")


def description() -> str:
    """Instructions that the kernels were compiled with, and their compiler; or why they are unavailable."""
    if reason := unavailable():
        return f"unavailable: {reason}"
    return f"{_reported('jaxmia_instructions').strip() or platform.machine()}, {_reported('jaxmia_compiler')}"


def compute_type(dtype: jnp.dtype) -> jnp.dtype:
    """Type in which the kernels compute with arrays of `dtype`: bfloat16 where the processor can, else float32."""
    half = dtype == jnp.bfloat16 and multiplies_bfloat16()
    return jnp.dtype(jnp.bfloat16 if half else jnp.float32)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether the kernels are available and this processor multiplies bfloat16 numbers."""
    if unavailable():
        return False
    supported = _loaded().jaxmia_multiplies_bfloat16
    supported.restype = ctypes.c_bool
    return supported()


def sources() -> list[Path]:
    """Source files of the kernels, without headers."""
    return sorted(_FOLDER.glob("*.cc"))


@functools.cache
def sources_digest() -> str:
    """Digest of the kernels' sources, by which what was compiled from them or measured with them is known again."""
    return digest(*(source.read_bytes() for source in [*sources(), *sorted(_FOLDER.glob("*.h"))]))


@functools.cache
def _load(compiler: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(_compiled(compiler)))


def _loaded() -> ctypes.CDLL:
    """The kernels' library, which must be available."""
    compiler = _compiler()
    assert compiler is not None
    return _load(compiler)


def _reported(name: str) -> str:
    """Text that a function of the library returns."""
    function = _loaded()[name]
    function.restype = ctypes.c_char_p
    return function().decode()


def _compiler() -> str | None:
    chosen = os.environ.get("CXX")
    return next((name for name in ((chosen,) if chosen else _COMPILERS) if shutil.which(name)), None)


def _installation(compiler: str) -> str:
    """File of a compiler and its time, by which a compiler that was updated is known."""
    path = Path(shutil.which(compiler) or compiler).resolve()
    return f"{path} {path.stat().st_mtime_ns}"


def _compiled(compiler: str) -> Path:
    """Path of the kernels' library for this machine, which is compiled if the cache has none.

    Raises:
        subprocess.SubprocessError: The compiler fails.
        OSError, UnwritableFile: The cache folder cannot be read or written to.
    """
    key = (sources_digest(), compiler, _installation(compiler), *_FLAGS, instruction_set(), jax.__version__)
    path = cache_folder() / f"kernels-{digest(chr(0).join(key).encode())}.so"
    if _is_whole(path):
        return path
    with tempfile.TemporaryDirectory(prefix="jaxmia-kernels-") as folder:
        compiled = _linked(compiler, Path(folder) / path.name)
    with atomic_write(path) as file:
        file.write(compiled + _seal(compiled))
    return path


def _linked(compiler: str, library: Path) -> bytes:
    """Compiles the sources side by side, and links them."""

    def compile_for(machine: str, source: Path) -> Path:
        part = library.with_name(f"{source.stem}.o")
        _run(compiler, *_FLAGS, machine, f"-I{jax.ffi.include_dir()}", "-c", str(source), "-o", str(part))
        return part

    def compile_all(machine: str) -> list[Path]:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(functools.partial(compile_for, machine), sources()))

    try:
        parts = compile_all(_MACHINES[0])
    except subprocess.CalledProcessError:
        parts = compile_all(_MACHINES[1])
    _run(compiler, "-shared", *map(str, parts), "-o", str(library))
    return library.read_bytes()


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=True)


def _is_whole(path: Path) -> bool:
    """Whether a compiled library exists and is complete; loading a damaged one would crash the process."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return content[-_SEAL_BYTES:] == _seal(content[:-_SEAL_BYTES])


def _seal(compiled: bytes) -> bytes:
    """Checksum that is appended to a library, where the loader ignores it."""
    return hashlib.sha256(compiled).digest()
