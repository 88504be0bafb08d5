"""Hard and soft thresholding, the proximal maps of l0 and l1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PyTree, Real

from sparsejax import _checks
from sparsejax._dtypes import promoted
from sparsejax._where import Where, choose
from sparsejax.projections._keep import keep
from sparsejax.projections._keys import key_format


def hard_threshold(
    tree: PyTree[Array], threshold: Real[ArrayLike, ""], where: Where = None
) -> PyTree[Array]:
    r"""Zero every chosen entry whose magnitude is at most ``threshold``.

    .. math:: \theta_i = w_i\,[\,|w_i| > t\,]
              \in \arg\min_\theta \tfrac12(w_i-\theta)^2 + \tfrac{t^2}{2}[\theta\ne 0]

    Args:
      tree: pytree of arrays, of any shape; the chosen leaves are floating point.
      threshold: scalar ``t >= 0``, in units of the weights; may be traced. Magnitudes are compared
        by bit pattern in the wider of float32 and the leaf's dtype, so subnormals are
        distinguished.
      where: the leaves that are thresholded; all others are returned unchanged.

    Returns:
      A tree with the structure, shapes and dtypes of ``tree``. NaN entries stay NaN. The gradient
      flows to the kept entries only.

    Raises:
      TypeError: ``threshold`` is not a number, or a chosen leaf is not floating point.
      ValueError: a concrete ``threshold`` is negative, NaN or not a scalar, or ``where`` chooses
        nothing.
    """
    threshold = _checks.scalar_at_least_zero("threshold", threshold)

    def keep_above(leaf: jax.Array) -> jax.Array:
        ranked = key_format([leaf, threshold])
        return keep(leaf, ranked.keys(leaf) > ranked.keys(threshold))

    chosen = choose(tree, where)
    return chosen.put_back([keep_above(leaf) for leaf in chosen.leaves])


def soft_threshold(
    tree: PyTree[Array], threshold: Real[ArrayLike, ""], where: Where = None
) -> PyTree[Array]:
    r"""Move every chosen entry towards zero by ``threshold``, stopping at zero.

    .. math:: \theta_i = \operatorname{sign}(w_i)\max(|w_i|-t,\,0)
              = \arg\min_\theta \tfrac12(w_i-\theta)^2 + t\,|\theta|

    Args:
      tree: pytree of arrays, of any shape; the chosen leaves are floating point.
      threshold: scalar ``t >= 0``, in units of the weights; may be traced. The arithmetic uses the
        wider of float32 and the leaf's dtype.
      where: the leaves that are thresholded; all others are returned unchanged.

    Returns:
      A tree with the structure, shapes and dtypes of ``tree``. NaN entries stay NaN. Gradients flow
      to the non-zero entries and to ``threshold``.

    Raises:
      TypeError: ``threshold`` is not a number, or a chosen leaf is not floating point.
      ValueError: a concrete ``threshold`` is negative, NaN or not a scalar, or ``where`` chooses
        nothing.
    """
    threshold = _checks.scalar_at_least_zero("threshold", threshold)
    chosen = choose(tree, where)
    return chosen.put_back([shrink(leaf, threshold) for leaf in chosen.leaves])


def shrink(leaf: jax.Array, threshold: jax.Array) -> jax.Array:
    """Soft-threshold one array in float32 or wider arithmetic and return it in its own dtype."""
    wide = leaf.astype(promoted(leaf, threshold))
    above = jnp.abs(wide) - threshold.astype(wide.dtype)
    return (jnp.sign(wide) * jnp.maximum(above, 0)).astype(leaf.dtype)
