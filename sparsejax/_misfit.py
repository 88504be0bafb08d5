"""The first place where two trees differ, in a few words: a network's structure fills pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import PyTree

_MOST_NAMES = 4

IsLeaf = Callable[[Any], bool] | None


def misfit(
    tree: PyTree, owner: PyTree, of: str, is_leaf: IsLeaf = None, deeper: bool = False
) -> str:
    """Describe the first place where two trees differ in structure.

    Args:
      tree: the tree that is described as "it".
      owner: the tree that it should fit.
      of: the name of ``owner``, such as "params".
      is_leaf: as for ``jax.tree.map``.
      deeper: whether the tree may have nodes in place of leaves; otherwise it may have leaves in
        place of nodes, as a prefix does. What it may have is named only if nothing else differs.

    Returns:
      A clause such as "it lacks ['out'], and ['outt'] is not in params".
    """
    found = _differences((), tree, owner, of, is_leaf)
    allowed = "in place of a leaf" if deeper else "it has a leaf in place"
    found.sort(key=lambda text: allowed in text)
    return found[0] if found else "the data of its nodes differs"


def few(names: Sequence[str]) -> str:
    """Join names for a message, at most four of them."""
    more = len(names) - _MOST_NAMES
    shown = ", ".join(names[:_MOST_NAMES])
    return f"{shown} and {more} more" if more > 0 else shown


def _differences(path: Any, tree: Any, owner: Any, of: str, is_leaf: IsLeaf) -> list[str]:
    ours, theirs = _children(tree, is_leaf), _children(owner, is_leaf)
    if ours is None and theirs is None:
        return []
    if ours is None or theirs is None or type(tree) is not type(owner):
        kinds = [
            "a leaf" if children is None else type(node).__name__
            for node, children in ((tree, ours), (owner, theirs))
        ]
        place = f" at {jax.tree_util.keystr(path)}" if path else ""
        return [f"it has {kinds[0]} in place of {kinds[1]}{place}"]
    lacks, unknown = (
        few([jax.tree_util.keystr((*path, key)) for key in some if key not in other])
        for some, other in ((theirs, ours), (ours, theirs))
    )
    clauses = [f"it lacks {lacks}"] * bool(lacks) + [f"{unknown} is not in {of}"] * bool(unknown)
    if clauses:
        return [", and ".join(clauses)]
    return [
        text
        for key, child in ours.items()
        for text in _differences((*path, key), child, theirs[key], of, is_leaf)
    ]


def _children(node: Any, is_leaf: IsLeaf) -> dict[Any, Any] | None:
    """Return the children of a node by their keys, or None for a leaf."""
    if is_leaf is not None and is_leaf(node):
        return None
    below = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)[0]
    if len(below) == 1 and not below[0][0]:
        return None
    return {key: child for (key,), child in below}
