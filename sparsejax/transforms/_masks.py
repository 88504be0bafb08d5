"""The masks of `hold_zeros` and `sparsify` in an optimizer state, by the paths of the leaves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import jax
from jaxtyping import Array, Bool, PyTree

from sparsejax._states import states_in
from sparsejax._variables import Path, flatten_with_path
from sparsejax.transforms._sparse_method import SparsifyState, as_bool

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


def held_masks(opt_state: PyTree, params: PyTree[Array]) -> Masks:
    """Return the intersections of the masks of all `hold_zeros` and `sparsify`, by path.

    Raises:
      ValueError: ``params`` has no leaf for one of them.
    """
    leaves = dict(flatten_with_path(params))
    masks: Masks = {}
    trees = [state.mask for state in states_in(opt_state, HoldZerosState)]
    trees += [state.mask for state in states_in(opt_state, SparsifyState)]
    for tree in trees:
        for path, mask in masks_of(tree).items():
            if path not in leaves:
                raise ValueError(
                    "params must have the structure of the parameters of opt_state; it has no leaf "
                    f"{name(path)}"
                )
            mask = as_bool(mask, leaves[path])
            masks[path] = masks[path] & mask if path in masks else mask
    return masks


def names(paths: Iterable[Path]) -> str:
    """Format paths for a message."""
    return ", ".join(name(path) for path in paths) or "none"


def name(path: Path) -> str:
    """Format a path for a message."""
    return jax.tree_util.keystr(path) or "(the only leaf)"
