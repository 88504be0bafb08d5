"""The nearest value of a codebook for each entry."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsejax._codebooks import check_codebook
from sparsejax._where import PyTree, Where, choose

_FEW = 16  # codebooks up to this size are searched by comparing with every midpoint


def project_codebook(tree: PyTree, codebook: jax.Array, where: Where = None) -> PyTree:
    r"""Replace each entry of the chosen leaves by the nearest value of a codebook.

    .. math:: \theta_i = \arg\min_{c \in C} |w_i - c|

    An entry midway between two values takes the lower one. An infinite entry takes the value at
    that end of the codebook, and NaN stays NaN. The result is elementwise, so leaves may be sharded
    in any way.

    Args:
      tree: pytree of arrays; the chosen leaves are floating point, of any shape.
      codebook: array [k] with k >= 1 finite values, in any order; may be traced.
      where: which leaves are projected, see `sparsejax`; the others are returned as they are.

    Returns:
      A tree like ``tree``, whose chosen entries are values of the codebook in the leaf's dtype.

    Raises:
      TypeError: a chosen leaf is not floating point.
      ValueError: ``codebook`` is not a vector of one or more finite values, or ``where`` chooses
        nothing.
    """
    values = check_codebook(codebook)
    chosen = choose(tree, where)
    return chosen.put_back([nearest(leaf, values) for leaf in chosen.leaves])


def midpoints(codebook: jax.Array) -> jax.Array:
    """The points midway between neighbours of a rising codebook [k], an array [k - 1]."""
    return codebook[:-1] + (codebook[1:] - codebook[:-1]) / 2


def index_of(entries: jax.Array, codebook: jax.Array) -> jax.Array:
    """The number (int32) of the value of a rising codebook that is nearest to each entry."""
    bounds = midpoints(codebook)
    if codebook.size <= _FEW:
        index = jnp.zeros(entries.shape, jnp.int32)
        for number in range(codebook.size - 1):
            index = index + (entries > bounds[number]).astype(jnp.int32)
        return index
    return jnp.searchsorted(bounds, entries, side="left", method="scan_unrolled").astype(jnp.int32)


def nearest(leaf: jax.Array, codebook: jax.Array) -> jax.Array:
    """A leaf's entries replaced by the nearest values of a rising codebook."""
    wide = leaf.astype(codebook.dtype)
    if codebook.size <= _FEW:
        bounds = midpoints(codebook)
        found = jnp.broadcast_to(codebook[0], leaf.shape)
        for number in range(codebook.size - 1):
            found = jnp.where(wide > bounds[number], codebook[number + 1], found)
    else:
        found = codebook[index_of(wide, codebook)]
    return jnp.where(jnp.isnan(wide), wide, found).astype(leaf.dtype)
