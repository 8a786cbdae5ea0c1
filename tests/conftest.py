import gc
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from hypothesis import settings

from jaxmia.data.pool import UNKNOWN, Pool
from jaxmia.runs.store import Chunk, ScoreStore
from tests.environment import remove_cache
from tests.once import made_once

# The same examples on every machine, however slow it is.
settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.load_profile("reproducible")


def optimised() -> dict[str, str]:
    """Environment of a process that trains for so long that programs which LLVM optimises save more than they cost."""
    return {**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_backend_optimization_level=1"}


# Imports and JAX's tracing make many objects that stay; looking for cycles among them takes a tenth of the time.
gc.set_threshold(20_000)


def pytest_configure(config: pytest.Config) -> None:
    """SIGINT reaches the processes that tests start, also where a shell had these tests run in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        config.add_cleanup(remove_cache)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that at the end no worker waits for another's."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What is imported stays to the end: the garbage collector need not go through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """One search of all objects finds what the tests left behind; pytest would go through them ten times."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def quiet_loggers() -> Iterator[None]:
    """A command that runs inside a test or a shared fixture shows its messages; each test begins and ends without."""
    _quieten()
    yield
    _quieten()


def _quieten() -> None:
    for name in ("jaxmia", "bridge", "benchmarks"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


Records = list[logging.LogRecord]


@contextmanager
def log_records() -> Iterator[Records]:
    """What jaxmia logs within."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    records: Records = []
    logger, handler = logging.getLogger("jaxmia"), Keep()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.fixture
def records() -> Iterator[Records]:
    """What jaxmia logs while the test runs."""
    with log_records() as found:
        yield found


def telling(records: Records, *words: str) -> list[str]:
    """The level of each message that holds all of the words."""
    return [record.levelname for record in records if all(word in record.getMessage() for word in words)]


@pytest.fixture
def strict_promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """JAX raises an error where it would promote a type or a rank unasked.

    Types may be promoted in tests with `adamw` in their name: Optax raises a float to the power of an integer step.
    """
    import jax

    types = "standard" if "adamw" in request.node.name else "strict"
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion(types):
        yield


@pytest.fixture
def unchecked_arrays() -> Iterator[None]:
    """Arrays are not held against their annotations: for tests of what the code itself says of a user's wrong ones."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def demo() -> Path:
    """The four files of the demo's challenge; they are read only."""
    from bridge.demo import make_demo

    return made_once("demo", make_demo)


@pytest.fixture(scope="session")
def pool() -> Pool:
    """Forty 6 x 6 images of three classes, told apart by their brightness; the last ten are private."""
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 3, 40).astype(np.int32)
    images = np.clip(rng.normal(60 + 60 * labels[:, None, None, None], 40, (40, 6, 6, 2)), 0, 255).astype(np.uint8)
    membership = rng.integers(0, 2, 40).astype(np.int8)
    membership[30:] = UNKNOWN
    return Pool(images, labels, np.array([f"s{i}" for i in range(40)]), membership)


def make_chunk(models: list[int], samples: int = 30, views: int = 2, seed: int = 0, **changes) -> Chunk:
    """A chunk of invented margins, with the mask and accuracy of its models."""
    rng = np.random.default_rng([seed, *models])
    arrays = {
        "model": np.array(models),
        "mask": rng.random((len(models), samples)) < 0.5,
        "phi": rng.normal(size=(len(models), views, samples)).astype(np.float32),
        "accuracy": rng.random(len(models)).astype(np.float32),
        "accuracy_in": rng.random(len(models)).astype(np.float32),
        "extra": {"curve": rng.random((len(models), 3, 4)).astype(np.float32)},
        "metadata": {"cache_key": {"seed": seed, "shadow": {"epochs": 3}}, "host": "here"},
    }
    return Chunk(**{**arrays, **changes})


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A run directory made elsewhere: matrices in which members stand out by one spread, and who is a member."""
    rng = np.random.default_rng(3)
    models, views, samples = 24, 2, 400
    mask = rng.random((models + 1, samples)) < 0.5
    location, spread = rng.normal(2, 2, samples), rng.gamma(4, 0.3, samples) + 0.2
    noise = rng.normal(size=(models + 1, views, samples))
    phi = (location + spread * (noise + 1.5 * mask[:, None])).astype(np.float32)
    members = mask[-1]
    membership = np.where(np.arange(samples) < 200, members, UNKNOWN).astype(np.int8)
    out = tmp_path / "run"
    Pool(None, rng.integers(0, 4, samples), np.array([f"id{i}" for i in range(samples)]), membership).save(
        out / "pool.npz"
    )
    np.savez(out / "target.npz", phi=phi[-1])
    store = ScoreStore(out / "shadows")
    for part in np.array_split(np.arange(models), 3):
        nothing = np.full(len(part), np.nan)
        store.write(Chunk(part, mask[part], phi[part], nothing, nothing, {}, {}))
    return out, members
