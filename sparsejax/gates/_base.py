"""The interface of all gates: pure functions of gate parameters phi and a PRNG key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray, PyTree

from sparsejax._dtypes import at_least_float32
from sparsejax._tied_gates import TiedTo
from sparsejax._where import is_masked


class Gates(NamedTuple):
    """Pure functions for gates z on the parameters of a network that computes with params * z.

    All trees have the structure of the parameters. A gated leaf holds an array of gates that
    broadcasts to the parameters, with length 1 along the axes whose weights share gates. A leaf
    that shares the gates of another one, such as the bias of the same units, holds a static node
    without arrays that names the other leaf. All other leaves hold ``optax.MaskedNode()``.

    Attributes:
      init: ``(key, params) -> phi``: the parameters of the gates, float32 or wider.
      sample: ``(phi, key) -> z``: gates in [0, 1], differentiable in phi.
      median: ``phi -> z``: the deterministic gates used at evaluation.
      active_probability: ``phi -> P(z != 0)``: float arrays, differentiable in phi.
      binarize: ``phi -> bool``: which gates are open at evaluation.
      rescale: ``params -> params``: initial weights, and the biases that share their gates, divided
        by the initial keep rate of the gates, so that the magnitudes in the gated network are those
        of the plain network.
    """

    init: Callable[[PRNGKeyArray, PyTree[Array]], PyTree[Float[Array, "..."]]]
    sample: Callable[[PyTree[Float[Array, "..."]], PRNGKeyArray], PyTree[Float[Array, "..."]]]
    median: Callable[[PyTree[Float[Array, "..."]]], PyTree[Float[Array, "..."]]]
    active_probability: Callable[[PyTree[Float[Array, "..."]]], PyTree[Float[Array, "..."]]]
    binarize: Callable[[PyTree[Float[Array, "..."]]], PyTree[Bool[Array, "..."]]]
    rescale: Callable[[PyTree[Array]], PyTree[Array]]


def divide_gated(
    params: PyTree[Array], layout: PyTree, keep_rate: Float[ArrayLike, ""]
) -> PyTree[Array]:
    """``params`` with every leaf that has gates, its own or shared, divided by ``keep_rate``."""

    def divide(leaf: Array, node: Any) -> Array:
        if is_masked(node):
            return leaf
        wide = at_least_float32(leaf)
        return (jnp.asarray(leaf, wide) / jnp.asarray(keep_rate, wide)).astype(leaf.dtype)

    return jax.tree.map(divide, params, layout)


def combine(*gates: Gates) -> Gates:
    """Combine several kinds of gates, on different leaves of one network, into one `Gates`.

    Its ``phi`` is a tuple with the gate parameters of each kind; the trees of gates that it returns
    are merged.

    Args:
      *gates: two or more `Gates`, made with values of ``where`` that do not overlap.

    Returns:
      A `Gates`.

    Raises:
      ValueError: no gates are given; in ``init``: two kinds gate the same leaf.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from sparsejax.gates import combine, hard_concrete, per_input, per_output
      >>> is_first = lambda path, leaf: path[0].key == "first"
      >>> is_second = lambda path, leaf: path[0].key == "second"
      >>> both = combine(
      ...     hard_concrete(grouping=per_output, where=is_first),
      ...     hard_concrete(grouping=per_input, where=is_second),
      ... )
      >>> params = {"first": jnp.ones((3, 4)), "second": jnp.ones((4, 2))}
      >>> z = both.median(both.init(jax.random.key(0), params))
      >>> z["first"].shape, z["second"].shape
      ((1, 4), (4, 1))
    """
    if not gates:
        raise ValueError("combine needs at least one kind of gates; got none")

    def init(key: PRNGKeyArray, params: PyTree[Array]) -> PyTree[Float[Array, "..."]]:
        keys = jax.random.split(key, len(gates))
        phi = tuple(kind.init(k, params) for kind, k in zip(gates, keys, strict=True))
        _merge(phi)  # raises if two kinds gate the same leaf
        return phi

    def sample(phi: PyTree[Float[Array, "..."]], key: PRNGKeyArray) -> PyTree[Float[Array, "..."]]:
        keys = jax.random.split(key, len(gates))
        return _merge([kind.sample(p, k) for kind, p, k in zip(gates, phi, keys, strict=True)])

    def median(phi: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return _merge([kind.median(p) for kind, p in zip(gates, phi, strict=True)])

    def active_probability(phi: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        return _merge([kind.active_probability(p) for kind, p in zip(gates, phi, strict=True)])

    def binarize(phi: PyTree[Float[Array, "..."]]) -> PyTree[Bool[Array, "..."]]:
        return _merge([kind.binarize(p) for kind, p in zip(gates, phi, strict=True)])

    def rescale(params: PyTree[Array]) -> PyTree[Array]:
        for kind in gates:
            params = kind.rescale(params)
        return params

    return Gates(init, sample, median, active_probability, binarize, rescale)


def _merge(trees: Sequence[PyTree]) -> PyTree:
    """One tree that holds, at each leaf, the gates of the only tree that has gates there."""

    def pick(path: tuple[Any, ...], *nodes: Any) -> Any:
        found = [node for node in nodes if not is_masked(node)]
        if len(found) > 1:
            raise ValueError(
                f"the combined gates must not overlap in where; {len(found)} of them gate "
                f"{jax.tree_util.keystr(path)}"
            )
        return found[0] if found else optax.MaskedNode()

    return jax.tree_util.tree_map_with_path(pick, *trees, is_leaf=_is_static_node)


def _is_static_node(node: object) -> bool:
    return is_masked(node) or isinstance(node, TiedTo)
