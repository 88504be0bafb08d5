"""The leaves of a tree of parameters with what tells them apart: names, layers and shapes."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._names import name_of
from sparsejax._variables import Path, held, is_wrapper

PyTree = Any


class Leaf(NamedTuple):
    """A leaf and where it stands."""

    path: Path
    """Without the levels of wrappers."""
    key: tuple[str, ...]
    """The parts of the path as strings."""
    layer: tuple[str, ...]
    """The path of the node that holds the leaf. A name that joins several parts with dots or
    slashes, as in a PyTorch ``state_dict``, counts as these parts."""
    words: tuple[str, ...]
    """Those of its own name, in lower case: ``("weight", "ih")`` for ``weight_ih``."""
    layer_words: tuple[str, ...]
    """Those of the name and of the type of the node that holds it."""
    shape: tuple[int, ...]
    floating: bool
    pair: int | None
    """Its place, 0 or 1, where the node that holds it is a tuple or a list of two."""

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    @property
    def label(self) -> str:
        """The path as errors and tables show it."""
        return jax.tree_util.keystr(self.path) or "the leaf"


def layer_leaves(tree: PyTree) -> list[Leaf]:
    """A tree's leaves in ``jax.tree`` order; what is no array counts as not floating point."""
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
    """The parts of a path as strings; the same for the attributes of a module and a dict's keys."""
    return tuple(name_of((part,)) for part in path)


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name in lower case, cut where case changes, at digits and at other signs."""
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
