"""Finding our states in an optimizer state, however deeply chained, masked or wrapped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax

from sparsejax._where import PyTree

State = TypeVar("State")


def states_in(opt_state: PyTree, kind: type[State]) -> list[State]:
    """The states of a kind, in the order of the chain."""
    found = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in found if isinstance(node, kind)]


def map_states(function: Callable[[State], State], opt_state: PyTree, kind: type[State]) -> PyTree:
    """``opt_state`` with ``function`` of each state of a kind in its place."""
    return jax.tree.map(
        lambda node: function(node) if isinstance(node, kind) else node,
        opt_state,
        is_leaf=lambda node: isinstance(node, kind),
    )
