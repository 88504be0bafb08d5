"""Projection onto the l1 ball: one soft threshold for a whole pytree."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from chex import Numeric
from jax import lax

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax._where import PyTree, Where, choose
from sparsejax.projections._exact_sums import fixed_point
from sparsejax.projections._keys import KeyFormat
from sparsejax.projections._shards import Layout, on_each_shard

_MOST_ENTRIES = 2**31 - 1
_NEWTON_PASSES = 30  # then bisection; Newton's method needs about ten


def project_l1_ball(tree: PyTree, radius: Numeric, where: Where = None) -> PyTree:
    r"""The nearest tree whose chosen leaves together have l1 norm at most ``radius``.

    .. math:: \arg\min_\theta \tfrac12\|w-\theta\|_2^2 \quad \text{s.t.}\quad \|\theta\|_1\le r
              \;=\; \operatorname{sign}(w)\max(|w|-\tau, 0), \qquad \sum_i \max(|w_i|-\tau,0) = r

    (and ``tree`` itself where it lies in the ball). The threshold tau solves a convex, piecewise
    linear equation by Newton's method, in about ten passes over the weights. Each pass adds up
    magnitudes as integers, without rounding, so the entries that remain are exactly those with
    :math:`|w_i| > \tau`: an entry at the threshold is zero. Nothing is sorted.

    Args:
      tree: pytree of arrays; the chosen leaves are floating point, of any shape.
      radius: scalar ``r >= 0``, may be traced (a traced negative one counts as 0).
      where: which leaves are projected together; the others are returned as they are.

    Returns:
      A tree like ``tree``. Each entry is correct to three roundings of float32 (float64 where a
      leaf or the radius is float64) and one of its own dtype, so the exact sum of the result is at
      most ``(1 + 3 eps) (1 + eps_leaf) r``; that of a narrow dtype such as bfloat16 may exceed
      ``r`` by a rounding of each entry. Parts of entries below 2^-72 of the largest magnitude
      (float64: 2^-132) are ignored, and where the hardware flushes subnormal numbers they count as
      zeros. Differentiable in ``tree`` and ``radius``, any number of times. Under ``jit`` a chosen
      entry that is NaN or infinite makes every chosen entry NaN: there is no nearest tree.

    Raises:
      TypeError: a chosen leaf is not floating point.
      ValueError: a known ``radius`` is negative, NaN or not a scalar; a known leaf holds NaN;
        ``where`` chooses nothing, or more than 2**31 - 1 entries.

    References:
      Duchi et al., Efficient projections onto the l1-ball, ICML 2008; Condat, Fast projection onto
      the simplex and the l1 ball, Mathematical Programming 2016.
    """
    _checks.scalar_at_least_zero("radius", radius)
    chosen = choose(tree, where)
    _checks.no_nan("tree", chosen.paths, chosen.leaves)
    if chosen.size > _MOST_ENTRIES:
        raise ValueError(
            f"tree has {chosen.size} chosen entries; at most {_MOST_ENTRIES} are allowed"
        )
    if not chosen.size:
        return tree
    # The dtype of the arithmetic; a Python number takes that of the leaves.
    dtype = at_least_float32(radius, *(leaf.dtype for leaf in chosen.leaves))
    projected, _ = _project(chosen.leaves, jnp.asarray(radius, dtype))
    return chosen.put_back(projected)


@jax.custom_jvp
@jax.jit
def _project(leaves: list[jax.Array], radius: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """The projected leaves, and one over how many entries are left (0 where all lay in the ball).

    The radius has the dtype of the arithmetic.
    """
    layouts = [Layout(((),) * leaf.ndim) for leaf in leaves]
    return on_each_shard(_project_shards, leaves, layouts, radius)


@_project.defjvp
def _derivative(primals, tangents):
    """Differentiates  sign(w) max(|w| - tau, 0)  and the equation that tau solves."""
    (leaves, radius), (d_leaves, d_radius) = primals, tangents
    projected, share = _project(leaves, radius)
    signs = [jnp.sign(leaf).astype(radius.dtype) for leaf in projected]
    wide = [d_leaf.astype(radius.dtype) for d_leaf in d_leaves]
    d_norm = functools.reduce(jnp.add, [jnp.sum(s * d) for s, d in zip(signs, wide, strict=True)])
    d_tau = (d_norm - d_radius) * share
    d_projected = [
        jnp.where(share > 0, jnp.abs(s) * d - s * d_tau, d).astype(leaf.dtype)
        for s, d, leaf in zip(signs, wide, leaves, strict=True)
    ]
    return (projected, share), (d_projected, jnp.zeros_like(share))


class _Bracket(NamedTuple):
    """Keys between which the threshold lies."""

    low: jax.Array
    """At this threshold the norm is at least the radius; -1 before that is known."""
    high: jax.Array
    """At this one it is less."""
    missing: jax.Array
    """By how much it is less there, in fixed point."""
    reached: jax.Array
    """int32: how many entries reach ``high``."""
    following: jax.Array
    """The key that is tried next."""
    passes: jax.Array


def _project_shards(
    leaves: Sequence[jax.Array], layouts: Sequence[Layout], radius: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
    dtype = radius.dtype
    keys = KeyFormat(dtype)
    radius = jnp.maximum(radius, jnp.zeros((), dtype))
    largest = _largest(leaves, layouts, keys)
    sums = fixed_point(keys, leaves, layouts, largest)
    octaves = jnp.minimum(keys.keys(radius) - largest, 31 * keys.octave)  # beyond, all lie inside
    bound = sums.number(largest + octaves)
    # No entry keeps more than the radius, so the threshold is not below this.
    nearest = keys.keys(jnp.maximum(keys.magnitude(largest) - radius, jnp.zeros((), dtype)))

    def narrow(bracket: _Bracket) -> _Bracket:
        """Compare the norm at one more threshold with the radius."""
        low, high, missing, at_high, key, passes = bracket
        total, reached = sums.sum_reaching(leaves, layouts, jnp.maximum(key, 1))
        excess = total - sums.times(sums.number(key), reached) - bound
        less = sums.normalised(-excess)
        excess = sums.normalised(excess)
        # On the sphere is inside, so a threshold of 0 is too high already.
        below = (excess[0] < 0) | ((key == 0) & jnp.all(excess == 0))
        # A tangent of the norm, which is convex, meets the radius below the threshold.
        step = sums.quotient(jnp.where(below, less, excess), reached)
        target = keys.magnitude(key) + jnp.where(below, -step, step)
        newton = jnp.maximum(keys.keys(jnp.maximum(target, jnp.zeros_like(target))), nearest)
        low, high = jnp.where(below, low, key), jnp.where(below, key, high)
        middle = low + (high - low) // 2
        following = jnp.where(passes < _NEWTON_PASSES, newton, middle)
        return _Bracket(
            low,
            high,
            jnp.where(below, less, missing),
            jnp.where(below, reached, at_high),
            jnp.clip(following, low + 1, jnp.maximum(high - 1, low + 1)),
            passes + 1,
        )

    zero = largest * 0
    nothing = zero.astype(jnp.int32)
    start = _Bracket(zero - 1, largest + 1, bound * 0 + nothing, nothing, zero, nothing)
    found = lax.while_loop(lambda bracket: bracket.high - bracket.low > 1, narrow, start)
    inside = found.high == 0
    # What is left of an entry is its distance from ``high``, the least magnitude of which anything
    # is left, and what is left of that: nothing is subtracted from something nearly as large.
    share = 1 / jnp.maximum(found.reached, 1).astype(dtype)
    only_ties = jnp.all(found.missing == sums.normalised(bound))
    least_left = jnp.where(only_ties, radius * share, sums.quotient(found.missing, found.reached))
    undefined = (largest >= keys.infinity) | jnp.isnan(radius)

    def shrink(leaf: jax.Array) -> jax.Array:
        distance = jnp.abs(leaf.astype(dtype)) - keys.magnitude(found.high)
        reached = keys.keys(leaf) >= found.high
        left = jnp.where(reached, distance + least_left, jnp.zeros((), dtype))
        result = (jnp.sign(leaf).astype(dtype) * left).astype(leaf.dtype)
        result = jnp.where(inside, leaf, result)
        return jnp.where(undefined, jnp.full_like(leaf, jnp.nan), result)

    return [shrink(leaf) for leaf in leaves], jnp.where(inside, jnp.zeros_like(share), share)


def _largest(leaves: Sequence[jax.Array], layouts: Sequence[Layout], keys: KeyFormat) -> jax.Array:
    """The largest key of all leaves, over all devices that hold pieces of them."""
    found = [jnp.max(keys.keys(leaf), initial=0) for leaf in leaves]
    for number, layout in enumerate(layouts):
        if layout.names:
            found[number] = lax.pmax(found[number], tuple(sorted(layout.names)))
    return functools.reduce(jnp.maximum, found)
