"""Thresholding: the proximal maps of l0 and l1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from chex import Numeric

from sparsejax import _checks
from sparsejax._dtypes import promoted
from sparsejax._where import PyTree, Where, choose
from sparsejax.projections._keys import key_format


def hard_threshold(tree: PyTree, threshold: Numeric, where: Where = None) -> PyTree:
    r"""Zero every chosen entry whose magnitude is at most ``threshold``.

    .. math:: \theta_i = w_i\,[\,|w_i| > t\,]
              \in \arg\min_\theta \tfrac12(w_i-\theta)^2 + \tfrac{t^2}{2}[\theta\ne 0]

    Args:
      tree: pytree of arrays; the chosen leaves are floating point, of any shape.
      threshold: scalar ``t >= 0``, may be traced. It is compared by bit pattern, in float32 or the
        leaf's dtype, whichever is wider; so subnormals are told apart.
      where: which leaves are thresholded; the others are returned as they are.

    Returns:
      A tree like ``tree``; NaN entries stay NaN. The gradient flows to the kept entries.

    Raises:
      TypeError: a chosen leaf is not floating point.
      ValueError: a known ``threshold`` is negative, NaN or not a scalar; ``where`` chooses nothing.
    """
    threshold = _checks.scalar_at_least_zero("threshold", threshold)

    def keep(leaf: jax.Array) -> jax.Array:
        ranked = key_format([leaf, threshold])
        return jnp.where(ranked.keys(leaf) > ranked.keys(threshold), leaf, 0).astype(leaf.dtype)

    chosen = choose(tree, where)
    return chosen.put_back([keep(leaf) for leaf in chosen.leaves])


def soft_threshold(tree: PyTree, threshold: Numeric, where: Where = None) -> PyTree:
    r"""Move every chosen entry towards zero by ``threshold``, stopping at zero.

    .. math:: \theta_i = \operatorname{sign}(w_i)\max(|w_i|-t,\,0)
              = \arg\min_\theta \tfrac12(w_i-\theta)^2 + t\,|\theta|

    Args:
      tree: pytree of arrays; the chosen leaves are floating point, of any shape.
      threshold: scalar ``t >= 0``, may be traced; the arithmetic is done in float32 or the leaf's
        dtype, whichever is wider.
      where: which leaves are thresholded; the others are returned as they are.

    Returns:
      A tree like ``tree``; NaN entries stay NaN. Gradients flow to the entries that are not zeroed
      and to ``threshold``.

    Raises:
      TypeError: a chosen leaf is not floating point.
      ValueError: a known ``threshold`` is negative, NaN or not a scalar; ``where`` chooses nothing.
    """
    threshold = _checks.scalar_at_least_zero("threshold", threshold)
    chosen = choose(tree, where)
    return chosen.put_back([shrink(leaf, threshold) for leaf in chosen.leaves])


def shrink(leaf: jax.Array, threshold: jax.Array) -> jax.Array:
    """The soft threshold of one array, computed in float32 or wider, returned in its dtype."""
    wide = leaf.astype(promoted(leaf, threshold))
    above = jnp.abs(wide) - threshold.astype(wide.dtype)
    return (jnp.sign(wide) * jnp.maximum(above, 0)).astype(leaf.dtype)
