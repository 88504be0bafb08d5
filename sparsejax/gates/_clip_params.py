"""A transformation that holds parameters in a range."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from chex import Numeric

from sparsejax._dtypes import promoted
from sparsejax.gates._hard_concrete import LOG_ALPHA_RANGE


def clip_params(
    low: Numeric = LOG_ALPHA_RANGE[0], high: Numeric = LOG_ALPHA_RANGE[1]
) -> optax.GradientTransformation:
    r"""Cut updates short so that parameters stay in ``[low, high]``; the last link of a chain.

    .. math:: u \leftarrow \min(\max(\phi + u, \text{low}), \text{high}) - \phi

    By default the range in which the published code holds the log alpha of hard-concrete gates::

        optax.chain(optax.adam(7e-4), clip_params())

    Args:
      low: scalar, may be traced.
      high: scalar, may be traced; not below ``low`` (a traced one is not checked).

    Returns:
      A ``GradientTransformation`` without state; ``update`` needs ``params``. Its updates have the
      dtype to which those of the update and of the parameter promote. ``optax.apply_updates`` may
      leave the range by the rounding of its sum, one unit in the last place of the parameter.

    Raises:
      ValueError: ``low`` is above ``high``; in ``update``: ``params`` is missing.
    """
    traced = any(isinstance(bound, jax.core.Tracer) for bound in (low, high))
    if not traced and not low <= high:
        raise ValueError(f"low must not be above high; got {low} and {high}")

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params must be passed to update: the range is theirs")

        def cut(u, p):
            # In a narrower dtype an update could not end at a bound.
            dtype = promoted(p, u)
            p, u = jnp.asarray(p, dtype), jnp.asarray(u, dtype)
            return jnp.clip(p + u, jnp.asarray(low, dtype), jnp.asarray(high, dtype)) - p

        return jax.tree.map(cut, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
