"""A gradient transformation that keeps parameters in a range."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Real

from sparsejax import _checks
from sparsejax._dtypes import promoted
from sparsejax.gates._hard_concrete import LOG_ALPHA_RANGE


def clip_params(
    low: Real[ArrayLike, ""] = LOG_ALPHA_RANGE[0], high: Real[ArrayLike, ""] = LOG_ALPHA_RANGE[1]
) -> optax.GradientTransformation:
    r"""Shorten updates so that the updated parameters stay in ``[low, high]``.

    .. math:: u \leftarrow \min(\max(\phi + u, \text{low}), \text{high}) - \phi

    It must be the last transformation of a chain. The default range is that in which the published
    code of constrained L0 keeps log alpha of hard-concrete gates.

    Args:
      low: scalar, may be traced.
      high: scalar, may be traced; must not be smaller than ``low`` (not checked if traced).

    Returns:
      A ``GradientTransformation`` without state, whose ``update`` needs ``params``. The updates
      have the promoted dtype of update and parameter. ``optax.apply_updates`` may leave the range
      by the rounding error of its sum, one unit in the last place of the parameter.

    Raises:
      ValueError: ``low`` is larger than ``high``; in ``update``: ``params`` is missing.

    References:
      Gallego-Posada et al., Controlled sparsity via constrained optimization or: how I learned to
      stop tuning penalties and love constraints, NeurIPS 2022.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from sparsejax.gates import clip_params
      >>> optimizer = optax.chain(optax.sgd(1.0), clip_params(low=-1.0, high=1.0))
      >>> phi = jnp.array([0.0, 0.9])
      >>> updates, _ = optimizer.update(jnp.array([0.5, -0.5]), optimizer.init(phi), phi)
      >>> print(optax.apply_updates(phi, updates))
      [-0.5  1. ]
    """
    known_low, known_high = _checks.known(low), _checks.known(high)
    if known_low is not None and known_high is not None and not known_low <= known_high:
        raise ValueError(f"low must not be above high; got {low} and {high}")

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            raise ValueError("params must be passed to update, which keeps them in the range")

        def shorten(u: Array, p: Array) -> Array:
            # In the narrower of the two dtypes the sum could not end exactly at a bound.
            dtype = promoted(p, u)
            p, u = jnp.asarray(p, dtype), jnp.asarray(u, dtype)
            return jnp.clip(p + u, jnp.asarray(low, dtype), jnp.asarray(high, dtype)) - p

        return jax.tree.map(shorten, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
