"""Gates at every leaf that they gate: their own, and those that follow it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax._tree_layers import key_of
from sparsejax._variables import flatten_with_path
from sparsejax._where import is_masked

PyTree = Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class TiedTo:
    """In a tree of gates, in the place of a leaf that shares the gates of another one.

    A node without leaves, like ``optax.MaskedNode()``: it is part of the tree's structure, so that
    it passes through ``jit``, ``vmap``, optimizers and checkpoints that are restored into a
    template.

    Attributes:
      path: the parts of the path of the leaf that has the gates.
      shape: the shape in which these gates broadcast to this leaf.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]


def broadcast_gates(params: PyTree, gates: PyTree) -> PyTree:
    """Gates, or anything of their shapes, at every leaf that they gate, followers included.

    With the probabilities that gates are active it says of every parameter how likely it is to
    stay.

    Args:
      params: the parameters, or their shapes.
      gates: a tree like those of `Gates`.

    Returns:
      A tree like ``params`` of arrays that broadcast to its leaves, with ``optax.MaskedNode()``
      where nothing is gated.

    Raises:
      ValueError: ``gates`` has gates that ``params`` has no leaf for, or that do not broadcast to
        their leaf.
    """
    stop = lambda node: node is None or isinstance(node, (optax.MaskedNode, TiedTo))  # noqa: E731
    given = {key_of(path): node for path, node in flatten_with_path(gates, is_leaf=stop)}
    leaves = [(key_of(path), leaf) for path, leaf in flatten_with_path(params)]
    odd = given.keys() - {key for key, _ in leaves}
    odd = {key for key in odd if given[key] is not None and not is_masked(given[key])}
    if odd:
        names = ", ".join(sorted("/".join(key) for key in odd))
        raise ValueError(f"z must have the structure of params; it has gates for {names}")
    found = [_gates_of(key, jnp.shape(leaf), given) for key, leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(params), found)


def _gates_of(key: tuple[str, ...], shape: tuple[int, ...], given: dict[Any, Any]) -> Any:
    node = given.get(key, optax.MaskedNode())
    if node is None:
        raise ValueError(
            f"z has None for {'/'.join(key) or 'the leaf'}; a checkpoint that is restored without "
            "a template loses which leaves share gates: restore it into a tree that init of the "
            "gates made"
        )
    if isinstance(node, TiedTo):
        leader = given.get(node.path)
        if leader is None or isinstance(leader, (optax.MaskedNode, TiedTo)):
            raise ValueError(
                f"z ties {'/'.join(key)} to the gates of {'/'.join(node.path)}, which it does not "
                "have; gates belong to the whole tree that their init was given"
            )
        if jnp.size(leader) != np.prod(node.shape, dtype=int):
            raise ValueError(
                f"z has gates of shape {jnp.shape(leader)} for {'/'.join(node.path)}, but "
                f"{'/'.join(key)}, which is tied to it, takes {node.shape}; gates belong "
                "to the whole tree that their init was given: apply them inside of a vmap over "
                "members, and before a scan over stacked layers"
            )
        node = jnp.reshape(leader, node.shape)
    if not is_masked(node) and not _broadcasts(jnp.shape(node), shape):
        raise ValueError(
            f"z has gates of shape {jnp.shape(node)} for {'/'.join(key) or 'the leaf'} of shape "
            f"{shape}, to which they do not broadcast"
        )
    return node


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False
