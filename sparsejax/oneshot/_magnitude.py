"""Pruning by the magnitudes of weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsejax.oneshot._method import Gram, Method, Pruned, Weights
from sparsejax.oneshot._patterns import Pattern


def magnitude() -> Method:
    r"""Keep the weights with the largest magnitudes, unchanged.

    .. math:: s_{ij} = w_{ij}^2

    It is what the other methods are compared with. Of groups those with the largest Euclidean norms
    are kept. Within a kernel the inputs are not used. For ``pattern="global"`` they are: the budget
    is divided among the kernels by their outputs' errors, as for all methods, see `prune`. The
    largest magnitudes of a whole tree are what `sparsejax.projections.project_l0_ball` keeps, and
    `sparsejax.projections.top_k_mask` is their mask.

    Returns:
      A `Method` for `prune`.
    """
    return Method("magnitude", _prune, uses_inputs=False)


def _prune(weights: Weights, gram: Gram, pattern: Pattern, count: jax.Array) -> Pruned:
    del gram
    mask = pattern.largest(jnp.square(weights), count)
    return jnp.where(mask, weights, 0), jnp.zeros((), weights.dtype)
