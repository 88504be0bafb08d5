"""A network under its gates: its parameters times z."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from sparsejax._names import name_of, named_leaves
from sparsejax._variables import flatten_with_path
from sparsejax._where import PyTree
from sparsejax.gates.base import is_masked

Followers = Mapping[str, str]
"""Leaves that share the gates of another: its path by theirs, parts joined by ``/``, as in
``{"norm1/scale": "conv1/kernel", "norm1/bias": "conv1/kernel"}``."""


def apply(params: PyTree, z: PyTree, followers: Followers | None = None) -> PyTree:
    r"""The gated parameters, :math:`\theta \odot z`, with gates broadcast over their groups.

    A ``bias`` beside a ``kernel`` with one gate for each output is gated too: a closed gate closes
    the unit. Other leaves of one entry for each output, such as the scale and bias of a
    normalisation behind a convolution, follow where ``followers`` says so.

    Args:
      params: the parameters, of any Flax model (NNX state, Linen dict) or none.
      z: gates, as `Gates` make them.
      followers: leaves that share another's gates, besides biases.

    Returns:
      A tree like ``params``, each leaf in its dtype.

    Raises:
      ValueError: ``z`` has gates that ``params`` has no leaf for; ``followers`` names a leaf that
        is not there, is gated itself, or has not one entry for each gate.
    """
    return jax.tree.map(
        lambda leaf, gate: leaf if is_masked(gate) else (leaf * gate).astype(leaf.dtype),
        params,
        spread(params, z, followers),
    )


def spread(params: PyTree, gates: PyTree, followers: Followers | None = None) -> PyTree:
    """Gates, or anything of their shapes, at every leaf that they gate, followers included.

    With the probabilities that gates are active it says of every parameter how likely it is to
    stay: ``constraints.parameter_groups(params, spread(params, probability, followers))`` counts
    each parameter once.

    Args:
      params: the parameters, or their shapes.
      gates: a tree like those of `Gates`.
      followers: as for `apply`.

    Returns:
      A tree like ``params`` of arrays that broadcast to its leaves, with ``optax.MaskedNode()``
      where nothing is gated.

    Raises:
      ValueError: as `apply`.
    """
    leaders = _leaders(params, gates, followers or {})
    given = _by_name(gates)

    def gate(name):
        if name in leaders:
            return given[leaders[name]].reshape(-1)
        return given.get(name, optax.MaskedNode())

    spread = [gate(name) for name, _ in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), spread)


def _leaders(params: PyTree, gates: PyTree, followers: Followers) -> dict[str, str]:
    """Of each leaf that follows, the leaf whose gates it shares."""
    shapes = {name: jnp.shape(leaf) for name, leaf in _by_name(params).items()}
    gated = {name: jnp.shape(leaf) for name, leaf in _by_name(gates).items()}
    if not gated.keys() <= shapes.keys():
        odd = ", ".join(sorted(gated.keys() - shapes.keys()))
        raise ValueError(f"z must have the structure of params; it has gates for {odd}")
    leaders = {}
    for name, shape in gated.items():
        bias = f"{name.rpartition('/')[0]}/bias".lstrip("/")
        one_each = shape[-1:] == shapes[name][-1:] and math.prod(shape) == shape[-1]
        if one_each and bias not in gated and shapes.get(bias) == shape[-1:]:
            leaders[bias] = name
    for name, leader in followers.items():
        if name not in shapes or leader not in gated or name in gated:
            what = "is gated itself" if name in gated else "is not there or has no gates"
            raise ValueError(f"followers has {name!r}: {leader!r}, of which one {what}")
        if shapes[name] != (math.prod(gated[leader]),):
            raise ValueError(
                f"followers has {name!r} of shape {shapes[name]}, which has not one entry for each "
                f"of the gates of {leader!r}, of shape {gated[leader]}"
            )
        leaders[name] = leader
    return leaders


def _by_name(tree: PyTree) -> dict[str, jax.Array]:
    flat = flatten_with_path(tree, is_leaf=is_masked)
    return {name_of(path): leaf for path, leaf in flat if not is_masked(leaf)}
