"""Training with a fixed random mask."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, PRNGKeyArray

from sparsejax.transforms._distributions import Distribution
from sparsejax.transforms._drop_and_grow import random_start
from sparsejax.transforms._sparse_method import SparseMethod


def static_sparse(
    sparsity: Float[Any, ""],
    distribution: Distribution | None = None,
    key: int | PRNGKeyArray = 0,
) -> SparseMethod:
    """Train with a random mask that never changes, the control of dynamic sparse training.

    Args:
      sparsity: the fraction of weights that are zero from the start, a number in ``[0, 1)``.
      distribution: the budget of each layer; None for `erdos_renyi`.
      key: a key of ``jax.random`` or a seed.

    Returns:
      A `SparseMethod` for `sparsify`. Start from ``masked_params(state, params)``.

    Raises:
      TypeError: ``sparsity`` is not a number or traced, ``distribution`` is of another type, or
        ``key`` is no key.
      ValueError: ``sparsity`` is not in ``[0, 1)``; in ``init``: the budget cannot be met.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from sparsejax.transforms import masked_params, sparsify, static_sparse
      >>> params = {"kernel": jnp.ones((20, 10))}
      >>> optimizer = sparsify(optax.adam(1e-3), static_sparse(0.9))
      >>> params = masked_params(optimizer.init(params), params)
      >>> print((params["kernel"] != 0).sum())
      20
    """
    return random_start(sparsity, distribution, key)[1]
