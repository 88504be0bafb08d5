"""Trees that belong to another one, leaf by leaf, as a mask to its weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sparsejax._where import PyTree


def pairs(
    name: str, tree: PyTree, owner: PyTree, of: str = "params", hint: str = ""
) -> list[tuple[str, Any, Any]]:
    """For each leaf of ``owner``: its path, itself, and what ``tree`` has in its place.

    That may be a node by itself, such as ``optax.MaskedNode()``.

    Args:
      name: of ``tree``, for errors.
      tree: a pytree of which ``owner`` is a prefix.
      owner: pytree.
      of: its name, for errors.
      hint: what ``tree`` may have instead of a leaf, for errors.

    Raises:
      ValueError: the structures differ.
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(owner)
    structure: Any = treedef
    try:
        parts = structure.flatten_up_to(tree)
    except ValueError as error:
        raise ValueError(
            f"{name} must have the structure of {of}{hint and f', with {hint}'}; its structure is "
            f"{jax.tree.structure(tree)}, that of {of} is {treedef}"
        ) from error
    return [
        (jax.tree_util.keystr(path), leaf, part)
        for (path, leaf), part in zip(flat, parts, strict=True)
    ]


def same_shapes(name: str, found: list[tuple[str, Any, Any]], of: str = "params") -> None:
    """Raise ValueError where what `pairs` found has another shape than its leaf."""
    for path, leaf, part in found:
        if jnp.shape(part) != jnp.shape(leaf):
            raise ValueError(
                f"{name} must have the shapes of {of}; {path or 'its leaf'} has shape "
                f"{jnp.shape(part)}, the leaf of {of} {jnp.shape(leaf)}"
            )
