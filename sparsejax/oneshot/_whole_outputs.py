"""Whole outputs, for which no other outputs can compensate, and inputs that are always 0."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsejax.oneshot._method import Gram, Pruned, Weights
from sparsejax.oneshot._patterns import Pattern
from sparsejax.oneshot._products import matmul


def prune_outputs(weights: Weights, gram: Gram, pattern: Pattern, count: jax.Array) -> Pruned:
    """Keep the outputs (or groups of them) with the largest second moments, unchanged."""
    energy = jnp.maximum((matmul(weights, gram) * weights).sum(1), 0)
    scores = jnp.zeros_like(weights).at[:, 0].set(energy)
    mask = pattern.largest(scores, count)
    return jnp.where(mask, weights, 0), jnp.zeros((), weights.dtype)


def live_inputs(weights: Weights, gram: Gram) -> Weights:
    """Return the weights, with 0 for those of inputs that are always 0."""
    return jnp.where(jnp.diagonal(gram) > 0, weights, 0)
