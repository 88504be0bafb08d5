"""Names of a tree's leaves: the parts of their paths, joined by ``/``."""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import PyTree

from sparsejax._variables import Path, flatten_with_path


def name_of(path: Path) -> str:
    """Return the parts of a path joined by ``/``; the name of a tree that is a leaf is empty.

    The path comes from `flatten_with_path`, which recognises wrappers such as Flax NNX variables by
    their type and leaves out the level that they add. So no name has a special meaning.
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """Return the leaves of a tree with their names, which may repeat, in ``jax.tree`` order."""
    return [(name_of(path), leaf) for path, leaf in flatten_with_path(tree)]


def leaves_by_name(tree: PyTree) -> dict[str, Any]:
    """Return the leaves of a tree by their names.

    Raises:
      ValueError: two leaves have the same name, as in ``{"a": {"b": x}, "a/b": y}``.
    """
    leaves: dict[str, Any] = {}
    for name, leaf in named_leaves(tree):
        if name in leaves:
            raise ValueError(
                f"the leaves of the tree must have different names; two of them are named {name!r} "
                "after their paths are joined by '/'. Rename one of them"
            )
        leaves[name] = leaf
    return leaves
