"""Access to states of one type inside an optimizer state, however deeply nested.

States may lie in any pytree, such as the state of ``optax.chain``, ``optax.partition`` or
``optax.MultiSteps``, and their arrays may be wrapped, as ``flax.nnx.Optimizer`` wraps each array in
a variable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from sparsejax._variables import Path, flatten_with_path, unwrap

State = TypeVar("State")
Tree = TypeVar("Tree")


def states_in(opt_state: PyTree, kind: type[State]) -> list[State]:
    """Return the states of a type, unwrapped, in the order of the chain."""
    found = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return [unwrap(node) for node in found if isinstance(node, kind)]


def map_states(function: Callable[[State], State], opt_state: PyTree, kind: type[State]) -> PyTree:
    """Replace each state of a type by ``function(state)``.

    ``function`` gets plain arrays and returns a state of the same structure. Arrays that were
    wrapped are wrapped in the result.
    """

    def replace(node: Any) -> Any:
        if not isinstance(node, kind):
            return node
        new = jax.tree.leaves(function(unwrap(node)))
        return jax.tree.unflatten(jax.tree.structure(node), new)

    return jax.tree.map(replace, opt_state, is_leaf=lambda node: isinstance(node, kind))


def replace_leaves(tree: PyTree, function: Callable[[Path, Any], Any]) -> PyTree:
    """Replace each leaf by ``function(path, leaf)`` and keep the wrappers around leaves.

    Unlike in ``jax.tree_util.tree_map_with_path``, wrappers add nothing to a path.
    """
    new = [function(path, leaf) for path, leaf in flatten_with_path(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), new)


def fresh(tree: Tree) -> Tree:
    """Copy a tree, each leaf into a buffer of its own.

    Donating an array (``jax.jit(..., donate_argnums=...)``) deletes its buffer. So a state must not
    hold a buffer twice, nor one that its caller still holds.
    """
    copy: Tree = jax.tree.map(jnp.copy, tree)
    return copy
