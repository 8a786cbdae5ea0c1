"""The logit margin of the true class, on which every attack is based."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Integer


def logit_margin(
    logits: Float[jax.Array, "*axes sample class"], labels: Integer[jax.Array, " sample"]
) -> Float[jax.Array, "*axes sample"]:
    """Computes the logit margin phi = z_y - logsumexp(z_j, j != y), in nats.

    It equals log(p_y / (1 - p_y)) of the softmax, without the cancellation that 1 - p_y suffers where p_y is near 1
    (Carlini et al. 2022).

    Args:
        logits: Logits.
        labels: True classes.
    """
    own = jnp.broadcast_to(jax.nn.one_hot(labels, logits.shape[-1], dtype=bool), logits.shape)
    true = jnp.where(own, logits, 0).sum(-1)
    return true - jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=-1)
