"""The containers of a pytree as JSON, so that a file can restore them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax

from sparsejax._forms import is_form
from sparsejax._names import name_of
from sparsejax._variables import Path, flatten_with_path, held, is_wrapper
from sparsejax._where import PyTree

Keys = tuple[str, ...]
"""The parts of the path of a leaf."""

_LEAF = 0


def leaves_by_keys(tree: PyTree) -> dict[Keys, Any]:
    """Return the leaves of a tree in order, by the parts of their paths. A form is a leaf.

    Raises:
      ValueError: two leaves have the same parts.
    """
    found: dict[Keys, Any] = {}
    for path, leaf in flatten_with_path(tree, is_leaf=is_form):
        keys = _keys(path)
        if keys in found:
            raise ValueError(f"tree must have leaves of different paths; two are {name_of(path)!r}")
        found[keys] = leaf
    return found


def describe(tree: PyTree, path: Path = ()) -> Any:
    """Describe the containers of a tree.

    Dicts, lists, tuples and None are described as such, any other node as a dict by name. A wrapper
    around an array, such as a Flax variable, counts as its array.

    Args:
      tree: the tree, or a part of one.
      path: path of that part, for error messages.

    Raises:
      ValueError: a key of a dict is neither a string nor an integer.
    """
    if is_wrapper(tree):
        return describe(held(tree), path)
    if tree is None:
        return None
    entries = _entries(tree)
    if entries is None:
        return _LEAF
    if type(tree) in (list, tuple):
        return [type(tree).__name__, [describe(node, (*path, key)) for key, node in entries]]
    is_dict = isinstance(tree, dict)
    nodes = []
    for key, node in entries:
        (here,) = _keys((key,))
        name = key.key if is_dict else here
        if type(name) not in (str, int):
            raise ValueError(
                f"tree must have dicts whose keys are strings or integers; {name!r} "
                f"({type(name).__name__}) in {name_of(path) or 'the tree'} is none"
            )
        nodes.append([name, describe(node, (*path, key))])
    return ["dict", nodes]


def keys_of(description: Any, before: Keys = ()) -> Iterator[Keys]:
    """Yield the parts of the path of each leaf of a described tree, in order."""
    if description == _LEAF:
        yield before
    elif description is not None:
        kind, nodes = description
        pairs = nodes if kind == "dict" else enumerate(nodes)
        for name, node in pairs:
            yield from keys_of(node, (*before, str(name)))


def rebuild(description: Any, leaves: Iterator[Any]) -> PyTree:
    """Return the described tree with the given leaves."""
    if description == _LEAF:
        return next(leaves)
    if description is None:
        return None
    kind, nodes = description
    if kind == "dict":
        return {name: rebuild(node, leaves) for name, node in nodes}
    found = [rebuild(node, leaves) for node in nodes]
    return tuple(found) if kind == "tuple" else found


def _keys(path: Path) -> Keys:
    return tuple(jax.tree_util.keystr((part,), simple=True) for part in path)


def _entries(tree: PyTree) -> Sequence[tuple[Any, Any]] | None:
    """Return the children of a node by key, or None for a leaf."""
    if is_form(tree) or jax.tree_util.all_leaves([tree]):
        return None
    is_child = lambda node: node is not tree  # noqa: E731
    children = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_child)[0]
    return [(path[0], node) for path, node in children]
