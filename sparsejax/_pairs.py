"""Matching of a tree, such as a mask, with the leaves of the tree that it belongs to."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from sparsejax._misfit import misfit


def pairs(
    name: str, tree: PyTree, owner: PyTree, of: str = "params", hint: str = ""
) -> list[tuple[str, Any, Any]]:
    """Return for each leaf of ``owner`` its path, the leaf and the node of ``tree`` in its place.

    Args:
      name: the name of ``tree`` in error messages.
      tree: a pytree of which ``owner`` is a prefix. In place of a leaf it may have a node, such as
        ``optax.MaskedNode()``.
      owner: pytree.
      of: the name of ``owner`` in error messages.
      hint: what ``tree`` may have in place of a leaf, for error messages.

    Returns:
      A triple for each leaf of ``owner``, in ``jax.tree`` order.

    Raises:
      ValueError: ``owner`` is not a prefix of ``tree``.
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(owner)
    structure: Any = treedef
    try:
        parts = structure.flatten_up_to(tree)
    except ValueError as error:
        raise ValueError(
            f"{name} must have the structure of {of}{hint and f', with {hint}'}; "
            f"{misfit(tree, owner, of, deeper=True)}"
        ) from error
    return [
        (jax.tree_util.keystr(path), leaf, part)
        for (path, leaf), part in zip(flat, parts, strict=True)
    ]


def same_shapes(name: str, found: list[tuple[str, Any, Any]], of: str = "params") -> None:
    """Check that what `pairs` found has the shapes of the leaves.

    Raises:
      ValueError: a shape differs.
    """
    for path, leaf, part in found:
        if jnp.shape(part) != jnp.shape(leaf):
            raise ValueError(
                f"{name} must have the shapes of {of}; {path or 'its leaf'} has shape "
                f"{jnp.shape(part)}, the leaf of {of} {jnp.shape(leaf)}"
            )
