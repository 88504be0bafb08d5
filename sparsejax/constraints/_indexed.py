"""Multipliers of many constraints, of which each batch shows some."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from sparsejax import _checks
from sparsejax._explicit_axes import cut_like, gathered
from sparsejax._extra_args import accepting_extra_args
from sparsejax._where import is_masked


class Indexed(NamedTuple):
    """Violations of some of many constraints, in place of an array of all of them."""

    indices: Int[Array, "batch"]  # noqa: F821
    """The numbers of the constraints, positions along the first dimension of the multipliers. A
    constraint that occurs several times counts with its mean violation."""
    values: Float[Array, "batch ..."]
    """The violation of each."""


def indexed(dual: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Let a dual optimizer update only the multipliers of the constraints that a batch shows.

    .. math:: \lambda_i \leftarrow \operatorname{dual}(\lambda_i, g_i(x)) \quad\text{for } i
              \text{ in the batch}

    Wherever violations are `Indexed` in place of an array, the multipliers that are not indexed
    stay as they are, and so do their entries in the state of ``dual``, such as the averages of
    `nupi`. `constrained_step` adds up the terms of the indexed constraints only, each time that it
    occurs. So one constraint for each example of a data set can be trained: a ``constraint`` that
    returns ``Indexed(batch["index"], violations)``. Other transformations of the violations, such
    as ``optax.clip``, are chained inside of ``indexed``; `anneal_bound` may also stand before it. A
    traced index that is out of range belongs to no constraint: its multiplier is 0.

    Args:
      dual: a dual optimizer that treats each multiplier by itself, such as `dual_ascent` or `nupi`.

    Returns:
      A ``GradientTransformationExtraArgs`` for the multipliers, with the calling convention of
      `dual_ascent`.

    Raises:
      ValueError: in ``update``: ``params`` (the multipliers) is missing; there are more or fewer
        values than indices; an index that is not traced is out of range; and as ``dual`` raises it.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from sparsejax.constraints import Indexed, dual_ascent, indexed
      >>> dual = indexed(dual_ascent(0.5, restarts=False))
      >>> multipliers = jnp.zeros(4)
      >>> seen = Indexed(jnp.array([3, 1]), jnp.array([1.0, 2.0]))
      >>> updates, state = dual.update(seen, dual.init(multipliers), multipliers)
      >>> print(optax.apply_updates(multipliers, updates))
      [0.  1.  0.  0.5]
    """
    inner = accepting_extra_args(dual)

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, Any]:
        if params is None:
            raise ValueError("params (the multipliers) must be passed to update")
        pairs = jax.tree.map(spread, updates, params, is_leaf=is_indexed)
        dense = jax.tree.map(lambda pair: pair.violation, pairs, is_leaf=_is_pair)
        if "grad" in extra:
            extra["grad"] = dense
        ascent, new = inner.update(dense, state, params, **extra)
        # A tree in the state that is like the multipliers has one entry for each of them. Under
        # `optax.partition` each optimizer has those of some constraints, and masks at the others.
        structure: Any = jax.tree.structure(params, is_leaf=is_masked)
        shown = jax.tree.leaves(pairs, is_leaf=lambda node: _is_pair(node) or is_masked(node))

        def like(node: Any) -> bool:
            return bool(jax.tree.structure(node, is_leaf=is_masked) == structure)

        def fits(pair: Any, leaf: Any) -> bool:
            return is_masked(leaf) or (_is_pair(pair) and pair.shown.shape == jnp.shape(leaf))

        def one(pair: Any, leaf: Any, old: Any) -> Any:
            return leaf if is_masked(leaf) else jnp.where(pair.shown, leaf, old)

        def kept(after: PyTree, before: PyTree) -> PyTree:
            leaves, old = (jax.tree.leaves(tree, is_leaf=is_masked) for tree in (after, before))
            if not (like(after) and all(map(fits, shown, leaves))):
                return after
            return structure.unflatten(map(one, shown, leaves, old))

        zeros = jax.tree.map(jnp.zeros_like, ascent)
        # A single scalar multiplier looks like a counter, but it is shown always.
        return kept(ascent, zeros), jax.tree.map(kept, new, state, is_leaf=like)

    return optax.GradientTransformationExtraArgs(inner.init, update)


class Spread(NamedTuple):
    """The violations of all constraints, zero for those that a batch does not show."""

    violation: Array
    shown: Array


def _is_pair(node: Any) -> bool:
    return isinstance(node, Spread)


def check_indexed(g: Indexed, multiplier: Array) -> None:
    """Check that each violation has the number of one of the multipliers; traced ones are not.

    Raises:
      ValueError: there are more or fewer values than indices, or an index is out of range.
    """
    indices, values = jnp.shape(g.indices), jnp.shape(g.values)
    fits = values == indices + jnp.shape(multiplier)[1:]
    if not fits or len(indices) != 1 or not jnp.ndim(multiplier):
        raise ValueError(
            "Indexed must have one index and one value for each violation, values of shape "
            f"[batch, ...] for multipliers [constraints, ...]; got indices of shape {indices} and "
            f"values of shape {values} for multipliers of shape {jnp.shape(multiplier)}"
        )
    known = _checks.known(g.indices)
    count = jnp.shape(multiplier)[0]
    if known is not None and known.size and not (-count <= known.min() and known.max() < count):
        raise ValueError(
            f"indices must be below {count}, the number of multipliers; got {known.min()} to "
            f"{known.max()}"
        )


def is_indexed(node: Any) -> bool:
    """Whether a node holds violations of some constraints."""
    return isinstance(node, Indexed)


def spread(g: Any, multiplier: Array) -> Spread:
    """Return the violation of each constraint, the mean one of those that occur several times."""
    if not is_indexed(g):
        return Spread(g, jnp.ones(jnp.shape(g), bool))
    check_indexed(g, multiplier)
    # On a mesh with explicit axes the batch is gathered; there is no rule for how to scatter it.
    indices, values = gathered(jnp.asarray(g.indices)), gathered(jnp.asarray(g.values))
    zeros = jnp.zeros(multiplier.shape, values.dtype)
    count = zeros.at[indices].add(jnp.ones_like(values))
    total = zeros.at[indices].add(values)
    mean = total / jnp.maximum(count, 1)
    return Spread(cut_like(mean, multiplier), cut_like(count > 0, multiplier))


def taken(each: Array, indices: Int[Array, "batch"]) -> Array:  # noqa: F821
    """Return the entries of some constraints; 0 for an index that is out of range."""
    indices = jnp.asarray(indices)
    found = gathered(each).at[gathered(indices)].get(mode="fill", fill_value=0)
    return cut_like(found, indices)
