"""Upper bound on the device's speed, and the cost of one image."""

import jax
import jax.numpy as jnp

from jaxmia.training.optimizer import hyper_of
from jaxmia.training.speed import SIZES, fastest
from jaxmia.training.trainer import State, Trainer


def product_flops_per_second(dtype: jnp.dtype) -> float:
    """Highest rate of square matrix products in XLA on the first device, over several sizes.

    Other libraries may be faster; `bridge.product` measures PyTorch's.
    """
    multiply = jax.jit(jnp.matmul)

    def rate(size: int) -> float:
        left, right = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
        return 2 * size**3 / fastest(lambda: multiply(left, right).block_until_ready())

    return max(map(rate, SIZES["cpu" if jax.default_backend() == "cpu" else "gpu"]))


def training_flops_per_image(trainer: Trainer) -> float:
    """Floating-point operations of the loss and its gradient for one image, as XLA counts them before optimisation."""
    size = trainer.recipe.batch_size
    state = jax.eval_shape(trainer.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((size, *trainer.network.shape), trainer.compute.dtype)
    labels = jax.ShapeDtypeStruct((size,), jnp.int32)
    smoothing = hyper_of(trainer.recipe).label_smoothing

    def loss(params: State, stats: State, batch: jax.Array, classes: jax.Array) -> jax.Array:
        return trainer.loss(params, stats, batch, classes, smoothing, jax.random.key(0))[0]

    gradient = jax.jit(jax.grad(loss))
    analysis = gradient.lower(state["params"], state["stats"], images, labels).cost_analysis()
    return float(analysis["flops"]) / size if analysis else float("nan")
