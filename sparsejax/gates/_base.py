"""What every kind of gate is: pure functions of gate parameters phi and a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from chex import Numeric

from sparsejax._dtypes import at_least_float32
from sparsejax._tied_gates import TiedTo
from sparsejax._where import PyTree, is_masked


class Gates(NamedTuple):
    """Random gates z on the parameters of a network, which then computes with params * z.

    All trees have the structure of the parameters: at each gated leaf an array of gates that
    broadcasts to it, with length 1 along the axes that share gates; at a leaf that shares these
    gates, such as the bias of the same units, a node without leaves that says so; and
    ``optax.MaskedNode()`` at the others.

    Attributes:
      init: ``(key, params) -> phi``: the gates' own parameters, float32 or wider.
      sample: ``(phi, key) -> z``: gates in [0, 1], differentiable in phi.
      median: ``phi -> z``: the deterministic gates of evaluation.
      active_probability: ``phi -> P(z != 0)``, differentiable in phi.
      binarize: ``phi -> bool``: which gates are open at evaluation.
      rescale: ``params -> params``: initial weights, and the biases that share their gates,
        divided by the gates' initial keep rate, so that the gated network starts with the
        magnitudes of the plain one.
    """

    init: Callable[[jax.Array, PyTree], PyTree]
    sample: Callable[[PyTree, jax.Array], PyTree]
    median: Callable[[PyTree], PyTree]
    active_probability: Callable[[PyTree], PyTree]
    binarize: Callable[[PyTree], PyTree]
    rescale: Callable[[PyTree], PyTree]


def divide_gated(params: PyTree, layout: PyTree, keep_rate: Numeric) -> PyTree:
    """``params`` with each leaf that has gates, or shares those of another, divided by a number."""

    def divide(leaf, node):
        if is_masked(node):
            return leaf
        wide = at_least_float32(leaf)
        return (jnp.asarray(leaf, wide) / jnp.asarray(keep_rate, wide)).astype(leaf.dtype)

    return jax.tree.map(divide, params, layout)


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

    return jax.tree_util.tree_map_with_path(pick, *trees, is_leaf=_is_place)


def _is_place(node: object) -> bool:
    return isinstance(node, (optax.MaskedNode, TiedTo))
