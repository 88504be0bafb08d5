"""Application of masks to the leaves of a tree, matched by structure or by path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from sparsejax._misfit import misfit
from sparsejax._states import replace_leaves
from sparsejax._variables import Path
from sparsejax._where import is_masked


def apply_mask(params: PyTree[Array], mask: PyTree[Bool[Array, "..."]]) -> PyTree[Array]:
    r"""Return the parameters with zeros outside of a mask.

    .. math:: w \odot m

    The gradient flows only to the entries in the mask.

    Args:
      params: pytree of arrays, the parameters of a network.
      mask: a pytree with the structure of ``params``: boolean arrays of the shapes of the leaves,
        and ``optax.MaskedNode()`` for a leaf or a whole subtree that is left unchanged.

    Returns:
      A tree with the structure, shapes and dtypes of ``params``.

    Raises:
      ValueError: ``mask`` does not have the structure of ``params`` or the shape of a leaf.
    """
    return map_searched(masked_leaf, params, mask)


def apply_mask_by_path(tree: PyTree, masks: Mapping[Path, Bool[Array, "..."]]) -> PyTree:
    """Return ``tree`` with zeros outside of the masks of its leaves.

    Paths leave out wrappers, and the tree may lack leaves or have others than the masks. So masks
    of the parameters apply to any tree that is laid out like them, such as a part of an optimizer
    state.
    """
    return replace_leaves(
        tree, lambda path, leaf: masked_leaf(leaf, masks[path]) if path in masks else leaf
    )


def map_searched(
    function: Callable[[jax.Array, Any], jax.Array], params: PyTree[Array], mask: PyTree
) -> PyTree[Array]:
    """Replace each leaf for which ``mask`` has a value by ``function(leaf, value)``.

    Args:
      function: maps a leaf of ``params`` and the value of ``mask`` in its place to a new leaf.
      params: pytree of arrays.
      mask: a mask, or gates, with the structure of ``params`` and ``optax.MaskedNode()`` for a leaf
        or a whole subtree that is left unchanged.

    Returns:
      A tree with the structure of ``params``.

    Raises:
      ValueError: ``mask`` does not have the structure of ``params`` or the shape of a leaf.
    """
    found: list[Any] = []

    def below(m: Any, part: PyTree) -> None:
        found.extend([m] * len(jax.tree.leaves(part)))

    try:
        jax.tree.map(below, mask, params, is_leaf=is_masked)
    except ValueError as error:
        raise ValueError(
            "mask must have the structure of params, with optax.MaskedNode() for what is not "
            f"masked; {misfit(mask, params, 'params', is_masked)}"
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


def masked_leaf(leaf: Array, mask: Bool[Array, "..."]) -> Array:
    """Return a leaf with zeros outside of its mask."""
    return jnp.where(mask, leaf, jnp.zeros_like(leaf))
