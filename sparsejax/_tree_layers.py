"""The leaves of a tree of parameters, with their names, layers and shapes."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from sparsejax._names import name_of
from sparsejax._variables import Path, held, is_wrapper


class Leaf(NamedTuple):
    """A leaf of a tree and its position in it."""

    path: Path
    """The path without the levels that wrappers add."""
    key: tuple[str, ...]
    """The parts of the path as strings."""
    layer: tuple[str, ...]
    """The path of the node that holds the leaf. A name that joins several parts with dots or
    slashes, as in a PyTorch ``state_dict``, counts as these parts."""
    words: tuple[str, ...]
    """The words of its own name in lower case: ``("weight", "ih")`` for ``weight_ih``."""
    layer_words: tuple[str, ...]
    """The words of the name and of the type of the node that holds the leaf."""
    shape: tuple[int, ...]
    floating: bool
    """Whether its dtype is floating point."""
    pair: int | None
    """Its index, 0 or 1, if the node that holds it is a tuple or a list of two; else None."""

    @property
    def ndim(self) -> int:
        """The number of its dimensions."""
        return len(self.shape)

    @property
    def label(self) -> str:
        """The path as error messages and tables show it."""
        return jax.tree_util.keystr(self.path) or "the leaf"


def layer_leaves(tree: PyTree) -> list[Leaf]:
    """Return the leaves of a tree in ``jax.tree`` order; they need not be arrays."""
    found: list[Leaf] = []
    _walk(tree, (), None, found)
    return found


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array, a number, or the shape and dtype of an array."""
    return isinstance(leaf, (bool, int, float, complex, np.generic)) or (
        hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    )


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is an array or a number of a floating-point dtype."""
    if not is_array(leaf):
        return False
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return jnp.issubdtype(dtype, jnp.floating)


def key_of(path: Path) -> tuple[str, ...]:
    """Return the parts of a path as strings, without the difference of attributes and dict keys."""
    return tuple(name_of((part,)) for part in path)


def words_of(name: str) -> tuple[str, ...]:
    """Split a name into words in lower case, at changes of case, at digits and at other signs."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return tuple(part.lower() for part in parts)


def _walk(node: PyTree, path: Path, holder: Any, found: list[Leaf]) -> None:
    if is_wrapper(node):
        _walk(held(node), path, holder, found)
        return
    below = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)[0]
    if len(below) == 1 and not below[0][0]:
        found.append(_leaf(node, path, holder))
        return
    for step, child in below:
        _walk(child, path + step, node, found)


def _leaf(leaf: Any, path: Path, holder: Any) -> Leaf:
    key = key_of(path)
    parts = tuple(part for name in key for part in re.split(r"[./]", name) if part)
    layer, name = parts[:-1], parts[-1] if parts else ""
    sequence = isinstance(holder, (tuple, list)) and not hasattr(holder, "_fields")
    return Leaf(
        path=path,
        key=key,
        layer=layer,
        words=words_of(name),
        layer_words=words_of(layer[-1] if layer else "") + words_of(type(holder).__name__),
        shape=tuple(jnp.shape(leaf)) if is_array(leaf) else (),
        floating=is_floating(leaf),
        pair=int(name) if sequence and len(holder) == 2 else None,
    )
