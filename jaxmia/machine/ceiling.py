"""What the device could do at best, and what one image costs."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxmia.training.optimizer import hyper_of
from jaxmia.training.trainer import Trainer


def matmul_flops_per_second(dtype: jnp.dtype, size: int | None = None, repeats: int = 10) -> float:
    """Rate of a large square matrix product on the first device, random data, median of some."""
    size = size or (8192 if jax.default_backend() != "cpu" else 1024)
    left, right = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    multiply = jax.jit(jnp.matmul)
    multiply(left, right).block_until_ready()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        multiply(left, right).block_until_ready()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / float(np.median(times))


def training_flops_per_image(trainer: Trainer) -> float:
    """Floating-point operations of the loss and its gradient for one image, as XLA counts them before optimisation."""
    size = trainer.recipe.batch_size
    state = jax.eval_shape(trainer.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((size, *trainer.network.shape), trainer.compute.dtype)
    labels = jax.ShapeDtypeStruct((size,), jnp.int32)
    smoothing = hyper_of(trainer.recipe).label_smoothing
    gradient = jax.jit(jax.grad(lambda *batch: trainer.loss(batch[0], batch[1], batch[2], batch[3], smoothing)[0]))
    analysis = gradient.lower(state["params"], state["stats"], images, labels).cost_analysis()
    return float(analysis["flops"]) / size if analysis else float("nan")
