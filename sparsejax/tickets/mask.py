"""Masks of subnetworks: which weights stay, how many, and how alike two masks are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax._dtypes import at_least_float32
from sparsejax._where import PyTree, Where, is_masked, mask_out


def whole_mask(params: PyTree, where: Where = None) -> PyTree:
    """The mask under which everything stays.

    Args:
      params: of the network.
      where: which leaves are searched; the others become ``optax.MaskedNode()``.

    Raises:
      TypeError, ValueError: a chosen leaf is not floating point; ``where`` chooses nothing.
    """
    return jax.tree.map(lambda leaf: jnp.ones_like(leaf, bool), mask_out(params, where))


def masked(params: PyTree, mask: PyTree) -> PyTree:
    r"""The parameters under a mask, :math:`w \odot m`: a gradient reaches what stays alone.

    Args:
      params: of the network.
      mask: booleans like the parameters, with ``optax.MaskedNode()`` in place of a leaf, or of a
        whole subtree, that is left as it is.

    Raises:
      ValueError: the mask has not the structure of ``params`` or the shape of a leaf.
    """
    return map_searched(lambda leaf, m: jnp.where(m, leaf, jnp.zeros_like(leaf)), params, mask)


def remaining(mask: PyTree) -> jax.Array:
    """How many weights a mask lets stay, over all of its leaves together; an int32 scalar."""
    return jnp.asarray(sum(m.sum() for m in jax.tree.leaves(mask)), jnp.int32)


def overlap(first: PyTree, second: PyTree) -> jax.Array:
    r"""How alike two masks are, :math:`|A \cap B| / |A \cup B|`; 1 where both are empty."""
    both = remaining(jax.tree.map(jnp.logical_and, first, second))
    either = remaining(jax.tree.map(jnp.logical_or, first, second))
    return jnp.where(either == 0, 1.0, both / jnp.maximum(either, 1))


def map_searched(
    function: Callable[[jax.Array, Any], jax.Array], params: PyTree, mask: PyTree
) -> PyTree:
    """``function(leaf, m)`` of each leaf for which a tree has something; the others as they are.

    Args:
      function: of a leaf of ``params`` and what ``mask`` has in its place.
      params: pytree.
      mask: a mask, or gates, with the structure of ``params``; ``optax.MaskedNode()`` in place of a
        leaf or of a subtree means that nothing is there.

    Raises:
      ValueError: ``mask`` has not the structure of ``params`` or the shape of a leaf.
    """
    found: list[Any] = []

    def below(m: Any, part: PyTree) -> None:
        found.extend([m] * len(jax.tree.leaves(part)))

    try:
        jax.tree.map(below, mask, params, is_leaf=is_masked)
    except ValueError as error:
        raise ValueError(
            "mask must have the structure of params, with optax.MaskedNode() for what is not "
            f"masked; its structure is {jax.tree.structure(mask)}, that of params is "
            f"{jax.tree.structure(params)}"
        ) from error
    flat, structure = jax.tree_util.tree_flatten_with_path(params)
    leaves = []
    for (path, leaf), m in zip(flat, found, strict=True):
        if is_masked(m):
            leaves.append(leaf)
            continue
        if jnp.shape(m) != jnp.shape(leaf):
            raise ValueError(
                f"mask must have the shapes of params; {jax.tree_util.keystr(path) or 'its leaf'} "
                f"has shape {jnp.shape(m)}, the leaf of params {jnp.shape(leaf)}"
            )
        leaves.append(function(jnp.asarray(leaf), m))
    return jax.tree.unflatten(structure, leaves)


def times(leaf: jax.Array, factor: jax.Array) -> jax.Array:
    """Their product in the dtype of ``leaf``, rounded once."""
    wide = at_least_float32(leaf.dtype)
    return (leaf.astype(wide) * jnp.asarray(factor).astype(wide)).astype(leaf.dtype)
