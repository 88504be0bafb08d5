"""Wrappers around single arrays, such as Flax NNX variables, which are recognised by type."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jaxtyping import PyTree

Path: TypeAlias = tuple[Any, ...]


def is_wrapper(node: Any) -> bool:
    """Whether a node is a Flax variable or box, which adds a level to the path of its array.

    Flax is not imported, since an object of its types exists only after an import elsewhere. No
    name has a special meaning: a dict with the key ``"value"`` is an ordinary dict.
    """
    nnx, meta = sys.modules.get("flax.nnx"), sys.modules.get("flax.core.meta")
    return (nnx is not None and isinstance(node, nnx.Variable)) or (
        meta is not None and isinstance(node, meta.AxisMetadata)
    )


def flatten_with_path(
    tree: PyTree, is_leaf: Callable[[Any], bool] | None = None
) -> list[tuple[Path, Any]]:
    """Return the leaves of a tree with their paths, without the levels that wrappers add.

    Args:
      tree: pytree whose arrays may be wrapped.
      is_leaf: as in ``jax.tree.flatten``; it is also called for the content of wrappers.

    Returns:
      Pairs of a path and a leaf, in ``jax.tree`` order.
    """
    found = []
    stop = lambda node: is_wrapper(node) or (is_leaf is not None and is_leaf(node))  # noqa: E731
    for path, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=stop)[0]:
        if not is_wrapper(node):
            found.append((path, node))
            continue
        inside = jax.tree_util.tree_flatten_with_path(node, is_leaf=is_leaf)[0]
        found.extend((path + below[1:], leaf) for below, leaf in inside)
    return found


def unwrap(tree: PyTree) -> PyTree:
    """Replace each wrapper by the pytree that it holds."""

    def bare(node: Any) -> Any:
        return unwrap(held(node)) if is_wrapper(node) else node

    return jax.tree.map(bare, tree, is_leaf=is_wrapper)


def held(wrapper: Any) -> Any:
    """Return the content of a wrapper, which may have no leaves, as ``optax.MaskedNode()``."""
    (child,) = jax.tree_util.default_registry.flatten_one_level(wrapper)[0]
    return child
