"""What every kind of gate is: pure functions of gate parameters phi and a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax._where import PyTree, Where, resolve_where
from sparsejax.gates.grouping import Grouping


class Gates(NamedTuple):
    """Random gates z on the parameters of a network, which then computes with params * z.

    All trees have the structure of the parameters: at each gated leaf an array of gates that
    broadcasts to it (its shape is the grouping's), and ``optax.MaskedNode()`` at the others.

    Attributes:
      init: ``(key, params) -> phi``: the gates' own parameters, float32 or wider.
      sample: ``(phi, key) -> z``: gates in [0, 1], differentiable in phi.
      median: ``phi -> z``: the deterministic gates of evaluation.
      active_probability: ``phi -> P(z != 0)``, differentiable in phi.
      binarize: ``phi -> bool``: which gates are open at evaluation.
      rescale: ``params -> params``: initial weights divided by the gates' initial keep rate, so
        that the gated network starts with the magnitudes of the plain one.
    """

    init: Callable[[jax.Array, PyTree], PyTree]
    sample: Callable[[PyTree, jax.Array], PyTree]
    median: Callable[[PyTree], PyTree]
    active_probability: Callable[[PyTree], PyTree]
    binarize: Callable[[PyTree], PyTree]
    rescale: Callable[[PyTree], PyTree]


def gate_shapes(params: PyTree, grouping: Grouping, where: Where) -> PyTree:
    """The shape and dtype of the gates of each leaf, or a ``MaskedNode``.

    Raises:
      ValueError: the grouping's shape does not broadcast to a leaf, or ``where`` chooses nothing.
    """

    def shape(path, leaf, gated):
        if not gated:
            return optax.MaskedNode()
        name = jax.tree_util.keystr(path)
        try:
            gates = tuple(grouping(jnp.shape(leaf)))
        except ValueError as error:
            raise ValueError(f"grouping cannot gate {name}: {error}") from error
        fits = len(gates) == jnp.ndim(leaf) and all(
            gate in (1, length) for gate, length in zip(gates, jnp.shape(leaf), strict=True)
        )
        if not fits:
            raise ValueError(
                f"grouping gives {name} of shape {jnp.shape(leaf)} gates of shape {gates}, which "
                "do not broadcast to it; each dimension must be 1 or the leaf's"
            )
        return jax.ShapeDtypeStruct(gates, jnp.promote_types(jnp.result_type(leaf), jnp.float32))

    return jax.tree_util.tree_map_with_path(shape, params, resolve_where(params, where))


def combine(*gates: Gates) -> Gates:
    """Several kinds of gates on different leaves of one network, as one.

    ``phi`` is a tuple of theirs; trees of gates are joined. Give each its own ``where``.

    Raises:
      ValueError: no gates; or, when they are used, two of them gate the same leaf.
    """
    if not gates:
        raise ValueError("combine needs at least one kind of gates; got none")

    def init(key, params):
        keys = jax.random.split(key, len(gates))
        phi = tuple(one.init(k, params) for one, k in zip(gates, keys, strict=True))
        _join(phi)  # raises where two gate the same leaf
        return phi

    def sample(phi, key):
        keys = jax.random.split(key, len(gates))
        return _join([one.sample(p, k) for one, p, k in zip(gates, phi, keys, strict=True)])

    def each(name: str):
        def function(phi):
            return _join([getattr(one, name)(p) for one, p in zip(gates, phi, strict=True)])

        return function

    def rescale(params):
        for one in gates:
            params = one.rescale(params)
        return params

    return Gates(
        init, sample, each("median"), each("active_probability"), each("binarize"), rescale
    )


def _join(trees) -> PyTree:
    """One tree with, at each place, what one of the trees has there."""

    def pick(path, *nodes):
        found = [node for node in nodes if not is_masked(node)]
        if len(found) > 1:
            raise ValueError(
                f"gates were combined of which {len(found)} gate {jax.tree_util.keystr(path)}; "
                "their where must not overlap"
            )
        return found[0] if found else optax.MaskedNode()

    return jax.tree_util.tree_map_with_path(pick, *trees, is_leaf=is_masked)


def is_masked(node: object) -> bool:
    """Whether a tree has nothing here."""
    return isinstance(node, optax.MaskedNode)
