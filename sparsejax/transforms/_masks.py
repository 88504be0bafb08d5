"""The masks of `hold_zeros` in an optimizer state, by the paths of the leaves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import jax
from jaxtyping import Array, Bool, PyTree

from sparsejax._states import states_in
from sparsejax._variables import Path, flatten_with_path

Masks: TypeAlias = dict[Path, Bool[Array, "..."]]
"""Boolean arrays by the path of their leaf, False for weights that are held at zero."""


class HoldZerosState(NamedTuple):
    """State of `hold_zeros`."""

    mask: PyTree[Bool[Array, "..."]]
    """A tree with the structure of the parameters: boolean arrays, False for weights that are held
    at zero, and ``optax.MaskedNode()`` for leaves without a mask."""


def masks_of(mask: PyTree) -> Masks:
    """Return the masks in a tree of masks by path."""
    return dict(flatten_with_path(mask))


def held_masks(opt_state: PyTree) -> Masks:
    """Return the intersections of the masks of all `hold_zeros` in an optimizer state, by path."""
    masks: Masks = {}
    for state in states_in(opt_state, HoldZerosState):
        for path, mask in masks_of(state.mask).items():
            masks[path] = masks[path] & mask if path in masks else mask
    return masks


def names(paths: Iterable[Path]) -> str:
    """Format paths for a message."""
    return ", ".join(name(path) for path in paths) or "none"


def name(path: Path) -> str:
    """Format a path for a message."""
    return jax.tree_util.keystr(path) or "(the only leaf)"
