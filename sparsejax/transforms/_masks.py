"""The masks in an optimizer state, and how they are applied to trees like the parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsejax._states import replace_leaves, states_in
from sparsejax._variables import Path, PyTree, flatten_with_path

Masks = dict[Path, jax.Array]
"""Boolean arrays by the path of the leaf that they belong to, False where it is held at zero."""


class HoldZerosState(NamedTuple):
    """State of `hold_zeros`."""

    mask: PyTree
    """Like the parameters: booleans, False where a weight is held at zero, or
    ``optax.MaskedNode()`` for a leaf that is free."""


def masks_of(mask: PyTree) -> Masks:
    """A tree of masks by path; a leaf that is free has none."""
    return dict(flatten_with_path(mask))


def held_masks(opt_state: PyTree) -> Masks:
    """By path, what every `hold_zeros` in an optimizer state leaves free of a leaf."""
    masks: Masks = {}
    for state in states_in(opt_state, HoldZerosState):
        for path, mask in masks_of(state.mask).items():
            masks[path] = masks[path] & mask if path in masks else mask
    return masks


def zero_outside(tree: PyTree, masks: Masks) -> PyTree:
    """``tree`` with zeros outside of the masks of its leaves."""

    def cut(path: Path, leaf: jax.Array) -> jax.Array:
        if path not in masks:
            return leaf
        return jnp.where(masks[path], leaf, jnp.zeros_like(leaf))

    return replace_leaves(tree, cut)


def names(paths: Iterable[Path]) -> str:
    """Paths as a message shows them."""
    return ", ".join(name(path) for path in paths) or "none"


def name(path: Path) -> str:
    """A path as a message shows it."""
    return jax.tree_util.keystr(path) or "(the only leaf)"
