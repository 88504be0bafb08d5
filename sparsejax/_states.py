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


def has_none(opt_state: PyTree, params: PyTree, kind: type | tuple[type, ...]) -> str:
    """Return the end of the message that an optimizer state holds no state of these types."""
    found = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, kind))
    if any(isinstance(node, kind) for node in found):
        return "it has none, but params have one: the optimizer state is the first argument"
    if {type(node) for node in _nodes(opt_state)} <= {dict, list}:
        return (
            "it has none, only dicts and lists, as Orbax restores a checkpoint without a target. "
            "Pass optimizer.init(params) as the target"
        )
    return "it has none"


def _nodes(tree: PyTree) -> list[Any]:
    """Return the inner nodes of a tree; a lone leaf is one."""
    below = jax.tree.leaves(tree, is_leaf=lambda child: child is not tree)
    inner = [child for child in below if not jax.tree_util.all_leaves([child])]
    return [tree, *(node for child in inner for node in _nodes(child))]


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
