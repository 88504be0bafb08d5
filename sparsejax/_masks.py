"""Masks of trees, applied leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax._where import PyTree, is_masked


def apply_mask(params: PyTree, mask: PyTree) -> PyTree:
    r"""Return the parameters under a mask, :math:`w \odot m`.

    A gradient reaches only what stays.

    Args:
      params: of the network.
      mask: booleans like the parameters, with ``optax.MaskedNode()`` in place of a leaf, or of a
        whole subtree, that is left as it is.

    Raises:
      ValueError: the mask has not the structure of ``params`` or the shape of a leaf.
    """
    return map_searched(lambda leaf, m: jnp.where(m, leaf, jnp.zeros_like(leaf)), params, mask)


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
