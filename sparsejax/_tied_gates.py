"""Gates of tied leaves, which share the gates of another leaf."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from sparsejax import _checks
from sparsejax._tree_layers import key_of
from sparsejax._variables import flatten_with_path
from sparsejax._where import is_masked


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class TiedTo:
    """Placeholder in a tree of gates for a leaf that shares the gates of another leaf.

    It is a node without leaves, like ``optax.MaskedNode()``. As part of the tree's structure it
    passes through ``jit``, ``vmap``, optimizers and checkpoints that are restored into a template.

    Attributes:
      path: the parts of the path of the leaf that has the gates.
      shape: the shape in which these gates broadcast to this leaf.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]


def broadcast_gates(params: PyTree[Array], gates: PyTree[Array]) -> PyTree[Array]:
    """Return the gates of every gated leaf, including the leaves that are tied to another one.

    Applied to the probabilities that gates are active, it gives the probability that each parameter
    remains.

    Args:
      params: pytree of the parameters, or of their shapes and dtypes.
      gates: a tree of the form of those that `Gates` makes: gates, or values of their shapes.

    Returns:
      A tree with the structure of ``params``: arrays that broadcast to its leaves, and
      ``optax.MaskedNode()`` for leaves without gates.

    Raises:
      ValueError: ``gates`` has gates for a leaf that ``params`` does not have, or gates that do not
        broadcast to their leaf.
    """
    stop = lambda node: node is None or is_masked(node) or isinstance(node, TiedTo)  # noqa: E731
    given = {key_of(path): node for path, node in flatten_with_path(gates, is_leaf=stop)}
    leaves = [(key_of(path), leaf) for path, leaf in flatten_with_path(params)]
    odd = given.keys() - {key for key, _ in leaves}
    odd = {key for key in odd if given[key] is not None and not is_masked(given[key])}
    if odd:
        names = ", ".join(sorted("/".join(key) for key in odd))
        raise ValueError(
            f"z must have the structure of params; it has gates for {names}, which params lack"
        )
    found = [_gates_of(key, jnp.shape(leaf), given) for key, leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(params), found)


def _gates_of(key: tuple[str, ...], shape: tuple[int, ...], given: dict[Any, Any]) -> Any:
    node = given.get(key, optax.MaskedNode())
    if node is None:
        raise ValueError(
            f"z must not hold None; it has None for {'/'.join(key) or 'the leaf'}. A checkpoint "
            "that is restored without a template loses which leaves share gates: restore it into "
            "a tree that init of the gates made"
        )
    if isinstance(node, TiedTo):
        leader = given.get(node.path)
        if leader is None or is_masked(leader) or isinstance(leader, TiedTo):
            raise ValueError(
                f"z must have the gates of {'/'.join(node.path)}, to which {'/'.join(key)} is "
                "tied; gates belong to the whole tree that was given to their init"
            )
        if jnp.size(leader) != np.prod(node.shape, dtype=int):
            raise ValueError(
                f"z must have gates of shape {node.shape} for {'/'.join(key)}, which is tied to "
                f"{'/'.join(node.path)} with gates of shape {jnp.shape(leader)}; gates belong to "
                "the whole tree that was given to their init: apply them inside a vmap over "
                "members and before a scan over stacked layers"
            )
        node = jnp.reshape(leader, node.shape)
    if not is_masked(node) and not _checks.broadcasts(jnp.shape(node), shape):
        raise ValueError(
            f"z must have gates that broadcast to their leaf; those for "
            f"{'/'.join(key) or 'the leaf'} of shape {shape} have shape {jnp.shape(node)}"
        )
    return node
