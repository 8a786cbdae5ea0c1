"""Stochastic gradient descent of many models in one pass over their weights, computed by the C++ kernels on a CPU."""

from collections.abc import Sequence

import jax
import numpy as np

from jaxmia.models.native.build import unavailable

Arrays = Sequence[jax.Array]


def step(
    rates: jax.Array,
    decays: jax.Array,
    active: jax.Array,
    weights: Arrays,
    memory: Arrays,
    gradients: Arrays,
    *,
    momentum: float,
    decayed: Sequence[bool],
) -> tuple[Arrays, Arrays]:
    """Takes a step with Nesterov momentum; returns new weights and momentum, in the memory of the old ones.

    Args:
        rates: Learning rates, float32 `[model]`.
        decays: Weight decays, float32 `[model]`.
        active: Which models take the step, bool `[model]`; the others stay as they are.
        weights: Float32 arrays `[model, ...]`.
        memory: Momentum of each of them.
        gradients: Gradient of each of them.
        momentum: Decay rate of the momentum.
        decayed: Which of the weights decay.

    Raises:
        RuntimeError: The kernels are unavailable.
    """
    if reason := unavailable():
        raise RuntimeError(f"the lowering native: {reason}")
    count = len(weights)
    results = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (*weights, *memory)]
    aliases = {3 + number: number for number in range(2 * count)}
    call = jax.ffi.ffi_call("jaxmia_sgd", results, input_output_aliases=aliases)
    operands = rates, decays, active, *weights, *memory, *gradients
    new = call(*operands, momentum=np.float32(momentum), decayed=np.array(decayed, np.int64))
    return new[:count], new[count:]
