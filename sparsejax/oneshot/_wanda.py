"""Pruning by the magnitudes of weights times those of their inputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsejax.oneshot._method import Gram, Method, Pruned, Weights
from sparsejax.oneshot._patterns import Pattern


def wanda() -> Method:
    r"""Keep the weights whose products with their inputs are largest, unchanged.

    .. math:: s_{ij} = w_{ij}^2\, G_{jj}, \qquad G = \tfrac1n X^\top X

    The paper compares the weights of each output with one another, which is ``pattern="row"``. Of
    groups those with the largest sums of :math:`s_{ij}` are kept.

    Returns:
      A `Method` for `prune`.

    References:
      Sun, Liu, Bair and Kolter, A simple and effective pruning approach for large language models,
      ICLR 2024.
    """
    return Method("wanda", _prune)


def scores(weights: Weights, gram: Gram) -> Weights:
    """Return the squared scores of the weights."""
    squares: jax.Array = jnp.square(weights) * jnp.diagonal(gram)
    return squares


def _prune(weights: Weights, gram: Gram, pattern: Pattern, count: jax.Array) -> Pruned:
    mask = pattern.largest(scores(weights, gram), count)
    return jnp.where(mask, weights, 0), jnp.zeros((), weights.dtype)
