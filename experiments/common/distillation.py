"""Training towards the outputs of another network."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float


def distillation_losses(
    logits: Float[Array, "*batch classes"], teacher: Float[Array, "*batch classes"]
) -> Float[Array, "*batch"]:
    r"""Compute the divergence of each predicted distribution from another network's.

    .. math:: \sum_v p_v \log(p_v / q_v), \quad
       p = \operatorname{softmax}(\text{teacher}),\ q = \operatorname{softmax}(\text{logits})

    Args:
      logits: of the network that is trained.
      teacher: logits of the other one, of the same inputs.

    Returns:
      The Kullback-Leibler divergences, in nats; the gradient reaches ``logits`` alone.

    References:
      Hinton, Vinyals and Dean, Distilling the knowledge in a neural network, 2015.
    """
    teacher = jax.lax.stop_gradient(teacher)
    # As differences of logits, so that neither distribution is written to memory.
    mean = (jax.nn.softmax(teacher, axis=-1) * (teacher - logits)).sum(axis=-1)
    return mean + jax.nn.logsumexp(logits, axis=-1) - jax.nn.logsumexp(teacher, axis=-1)
