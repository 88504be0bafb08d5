"""Masks of subnetworks: which weights stay, how many, and how alike two masks are."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsejax._dtypes import at_least_float32
from sparsejax._where import PyTree, Where, mask_out


def ones_mask(params: PyTree, where: Where = None) -> PyTree:
    """The mask under which everything stays.

    Args:
      params: of the network.
      where: which leaves are searched; the others become ``optax.MaskedNode()``.

    Raises:
      TypeError, ValueError: a chosen leaf is not floating point; ``where`` chooses nothing.
    """
    return jax.tree.map(lambda leaf: jnp.ones_like(leaf, bool), mask_out(params, where))


def num_nonzero(mask: PyTree) -> jax.Array:
    """How many weights a mask lets stay, over all of its leaves together; an int32 scalar."""
    return jnp.asarray(sum(m.sum() for m in jax.tree.leaves(mask)), jnp.int32)


def jaccard(first: PyTree, second: PyTree) -> jax.Array:
    r"""How alike two masks are, :math:`|A \cap B| / |A \cup B|`; 1 where both are empty."""
    both = num_nonzero(jax.tree.map(jnp.logical_and, first, second))
    either = num_nonzero(jax.tree.map(jnp.logical_or, first, second))
    return jnp.where(either == 0, 1.0, both / jnp.maximum(either, 1))


def times(leaf: jax.Array, factor: jax.Array) -> jax.Array:
    """Their product in the dtype of ``leaf``, rounded once."""
    wide = at_least_float32(leaf.dtype)
    return (leaf.astype(wide) * jnp.asarray(factor).astype(wide)).astype(leaf.dtype)
