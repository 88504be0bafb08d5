"""The names of a tree's leaves: the parts of their paths joined by ``/``."""

from __future__ import annotations

from typing import Any

import jax

from sparsejax._variables import Path, flatten_with_path

PyTree = Any


def name_of(path: Path) -> str:
    """The parts of a path of `flatten_with_path` joined by ``/``; empty for a tree that is a leaf.

    No part means anything special: the level that a wrapper adds, such as a Flax NNX variable, is
    left out by `flatten_with_path`, which tells wrappers apart by their type.
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """Each leaf of a tree with its name, in ``jax.tree`` order; a name may occur more than once."""
    return [(name_of(path), leaf) for path, leaf in flatten_with_path(tree)]


def leaves_by_name(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their names.

    Raises:
      ValueError: two leaves have the same name, as those of ``{"a": {"b": x}, "a/b": y}`` have.
    """
    leaves: dict[str, Any] = {}
    for name, leaf in named_leaves(tree):
        if name in leaves:
            raise ValueError(
                f"the tree has two leaves named {name!r}; rename one of them, so that their paths, "
                "joined by '/', differ"
            )
        leaves[name] = leaf
    return leaves
