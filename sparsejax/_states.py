"""Finding our states in an optimizer state, however deeply chained, masked or wrapped.

States may lie in any pytree, such as that of ``optax.chain``, ``optax.partition`` or
``optax.MultiSteps``, and their arrays may be wrapped, as ``flax.nnx.Optimizer`` wraps each of them
in a variable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from sparsejax._variables import PyTree, flatten_with_path, unwrap

State = TypeVar("State")


def states_in(opt_state: PyTree, kind: type[State]) -> list[State]:
    """The states of a kind, in the order of the chain, with plain arrays."""
    found = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return [unwrap(node) for node in found if isinstance(node, kind)]


def map_states(function: Callable[[State], State], opt_state: PyTree, kind: type[State]) -> PyTree:
    """``opt_state`` with ``function`` of each state of a kind in its place.

    ``function`` sees plain arrays and returns a state of the same structure; arrays that were
    wrapped are wrapped in the result.
    """

    def replace(node: Any) -> Any:
        if not isinstance(node, kind):
            return node
        new = jax.tree.leaves(function(unwrap(node)))
        return jax.tree.unflatten(jax.tree.structure(node), new)

    return jax.tree.map(replace, opt_state, is_leaf=lambda node: isinstance(node, kind))


def replace_leaves(tree: PyTree, function: Callable[[tuple[Any, ...], Any], Any]) -> PyTree:
    """``tree`` with ``function(path, leaf)`` in place of each leaf.

    Unlike in ``jax.tree_util.tree_map_with_path`` wrappers add nothing to a path; they stay.
    """
    new = [function(path, leaf) for path, leaf in flatten_with_path(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), new)


def fresh(tree: PyTree) -> PyTree:
    """A copy of a tree, each leaf in a buffer that nothing else refers to.

    Donating an array (``jax.jit(..., donate_argnums=...)``) deletes its buffer. A state must
    therefore not hold one buffer twice, nor one that its caller still holds.
    """
    return jax.tree.map(jnp.copy, tree)
