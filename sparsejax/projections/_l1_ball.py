"""Projection onto the l1 ball, a soft threshold that all leaves of a pytree share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, PyTree, Real

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax._where import Where, choose
from sparsejax.projections._exact_sums import fixed_point
from sparsejax.projections._keys import KeyFormat
from sparsejax.projections._shards import Layout, on_each_shard

_MOST_ENTRIES = 2**31 - 1
_NEWTON_PASSES = 30  # then bisection; Newton's method needs about ten


def project_l1_ball(
    tree: PyTree[Array], radius: Real[ArrayLike, ""], where: Where = None
) -> PyTree[Array]:
    r"""Project onto the trees whose chosen leaves together have an l1 norm of at most ``radius``.

    .. math:: \arg\min_\theta \tfrac12\|w-\theta\|_2^2 \quad \text{s.t.}\quad \|\theta\|_1\le r
              \;=\; \operatorname{sign}(w)\max(|w|-\tau, 0), \qquad \sum_i \max(|w_i|-\tau,0) = r

    A ``tree`` that lies in the ball is returned as it is. Otherwise the threshold tau solves a
    convex, piecewise linear equation; Newton's method finds it in about ten passes over the
    weights. Each pass sums magnitudes in integer arithmetic, without rounding, so the entries that
    remain are exactly those with :math:`|w_i| > \tau`, and an entry at the threshold becomes zero.
    Nothing is sorted. The result is differentiable in ``tree`` and ``radius``, any number of times.

    Args:
      tree: pytree of arrays, of any shape; the chosen leaves are floating point.
      radius: scalar ``r >= 0``, in units of the weights; may be traced, and a traced negative value
        counts as 0.
      where: the leaves that are projected together; all others are returned unchanged.

    Returns:
      A tree with the structure, shapes and dtypes of ``tree``. Each entry is correct to three
      roundings in float32 (float64 if a leaf or the radius is float64) and one rounding in its own
      dtype, so the l1 norm of the result is at most ``(1 + 3 eps) (1 + eps_leaf) r``; in a narrow
      dtype such as bfloat16 it may exceed ``r`` by a rounding of each entry. Bits of an entry below
      2^-72 of the largest magnitude (float64: 2^-132) are ignored, and subnormal numbers count as
      zeros where the hardware flushes them. If a chosen entry is NaN or infinite under ``jit``, no
      nearest tree exists and every chosen entry of the result is NaN.

    Raises:
      TypeError: a chosen leaf is not floating point.
      ValueError: a concrete ``radius`` is negative, NaN or not a scalar; a concrete leaf holds NaN
        or infinity; or ``where`` chooses nothing or more than 2**31 - 1 entries.

    References:
      Duchi et al., Efficient projections onto the l1-ball, ICML 2008; Condat, Fast projection onto
      the simplex and the l1 ball, Mathematical Programming 2016.
    """
    _checks.scalar_at_least_zero("radius", radius)
    chosen = choose(tree, where)
    _checks.finite("tree", chosen.paths, chosen.leaves)
    if chosen.size > _MOST_ENTRIES:
        raise ValueError(
            f"tree must have at most {_MOST_ENTRIES} chosen entries; it has {chosen.size}"
        )
    if not chosen.size:
        return tree
    # The dtype of the arithmetic. A Python number does not widen the dtype of the leaves.
    dtype = at_least_float32(radius, *(leaf.dtype for leaf in chosen.leaves))
    projected, _ = _project(chosen.leaves, jnp.asarray(radius, dtype))
    return chosen.put_back(projected)


@jax.custom_jvp
@jax.jit
def _project(leaves: list[jax.Array], radius: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """Return the projected leaves and one over the number of their non-zero entries.

    The second value is 0 where the leaves lie in the ball. The dtype of ``radius`` is that of the
    arithmetic.
    """
    layouts = [Layout(((),) * leaf.ndim) for leaf in leaves]
    return on_each_shard(_project_shards, leaves, layouts, radius)


@_project.defjvp
def _derivative(primals: Any, tangents: Any) -> Any:
    """Differentiate  sign(w) max(abs(w) - tau, 0)  and the equation that tau solves."""
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
    """The state of the search for the key of the threshold."""

    low: jax.Array
    """A key at whose threshold the norm is at least the radius; -1 while none is known."""
    high: jax.Array
    """A key at whose threshold the norm is less than the radius."""
    missing: jax.Array
    """The radius minus the norm at the threshold ``high``, in fixed point."""
    reached: jax.Array
    """int32 scalar: the number of entries whose keys are at least ``high``."""
    following: jax.Array
    """The key to try next."""
    passes: jax.Array
    """int32 scalar: the number of keys tried."""


def _project_shards(
    leaves: Sequence[jax.Array], layouts: Sequence[Layout], radius: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
    dtype = radius.dtype
    keys = KeyFormat(dtype)
    radius = jnp.maximum(radius, jnp.zeros((), dtype))
    largest = _largest(leaves, layouts, keys)
    sums = fixed_point(keys, leaves, layouts, largest)
    octaves = jnp.minimum(
        keys.keys(radius) - largest, 31 * keys.octave
    )  # a larger ball holds everything
    bound = sums.number(largest + octaves)
    # No projected entry exceeds the radius, so this is a lower bound on the threshold.
    nearest = keys.keys(jnp.maximum(keys.magnitude(largest) - radius, jnp.zeros((), dtype)))

    def narrow(bracket: _Bracket) -> _Bracket:
        """Compare the norm at the next threshold with the radius and shrink the bracket."""
        low, high, missing, at_high, key, passes = bracket
        total, reached = sums.sum_reaching(leaves, layouts, jnp.maximum(key, 1))
        excess = total - sums.times(sums.number(key), reached) - bound
        less = sums.normalised(-excess)
        excess = sums.normalised(excess)
        # A tree on the sphere lies in the ball, so a threshold of 0 counts as too high.
        below = (excess[0] < 0) | ((key == 0) & jnp.all(excess == 0))
        # The norm is convex in the threshold, so its tangent reaches the radius below the root.
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
    # An entry is its distance from ``high``, the smallest magnitude that remains non-zero, plus the
    # projection of ``high`` itself. This form avoids cancellation.
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
    """Return the largest key of all leaves, over all devices that hold shards of them."""
    found = [jnp.max(keys.keys(leaf), initial=0) for leaf in leaves]
    for number, layout in enumerate(layouts):
        if layout.names:
            found[number] = lax.pmax(found[number], tuple(sorted(layout.names)))
    return functools.reduce(jnp.maximum, found)
