"""Projection onto the l1 ball: one soft threshold for a whole pytree."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from chex import Numeric
from jax import lax

from sparsejax import _checks
from sparsejax._where import PyTree, Where, choose
from sparsejax.projections.thresholds import shrink


def project_l1_ball(tree: PyTree, radius: Numeric, where: Where = None) -> PyTree:
    r"""The nearest tree whose chosen leaves together have l1 norm at most ``radius``.

    .. math:: \arg\min_\theta \tfrac12\|w-\theta\|_2^2 \quad \text{s.t.}\quad \|\theta\|_1\le r
              \;=\; \operatorname{sign}(w)\max(|w|-\tau, 0), \qquad \sum_i \max(|w_i|-\tau,0) = r

    (and ``tree`` itself where it lies in the ball). The threshold tau solves a convex, piecewise
    linear equation; Newton's method from tau = 0 climbs to it without overshooting and ends after
    finitely many passes over the weights (about ten in practice). Nothing is sorted.

    Args:
      tree: pytree of arrays; the chosen leaves are floating point, of any shape.
      radius: scalar ``r >= 0``, may be traced (a traced negative one counts as 0).
      where: which leaves are projected together; the others are returned as they are.

    Returns:
      A tree like ``tree``. The norm meets the bound within rounding of float32 (float64 where a
      leaf is float64). Differentiable in ``tree`` and ``radius``. Under ``jit`` a chosen entry
      that is NaN or infinite makes every chosen entry NaN: there is no nearest tree.

    Raises:
      TypeError: a chosen leaf is not floating point.
      ValueError: a known ``radius`` is negative, NaN or not a scalar; a known leaf holds NaN;
        ``where`` chooses nothing.

    References:
      Duchi et al., Efficient projections onto the l1-ball, ICML 2008; Condat, Fast projection onto
      the simplex and the l1 ball, Mathematical Programming 2016.
    """
    radius = jnp.maximum(_checks.scalar_at_least_zero("radius", radius), 0)
    chosen = choose(tree, where)
    _checks.no_nan("tree", chosen.paths, chosen.leaves)
    if not chosen.size:
        return tree
    tau = _threshold(chosen.leaves, radius)
    return chosen.put_back([shrink(leaf, tau) for leaf in chosen.leaves])


def _threshold(leaves: Sequence[jax.Array], radius: jax.Array) -> jax.Array:
    """The tau >= 0 at which the soft-thresholded leaves have l1 norm ``radius`` (or 0 inside)."""
    dtype = jnp.result_type(radius, *leaves)

    def excess_and_count(leaves, radius, tau):
        norm, count = jnp.asarray(0, dtype), jnp.asarray(0, dtype)
        for leaf in leaves:
            above = jnp.abs(leaf.astype(dtype)) - tau
            norm += jnp.sum(jnp.maximum(above, 0))
            count += jnp.sum(above > 0, dtype=jnp.int32).astype(dtype)
        return norm - radius, count

    def newton(leaves, radius, tau):
        excess, count = excess_and_count(leaves, radius, tau)
        # A NaN or infinite excess must reach the result; a count of 0 goes with an excess <= 0.
        return jnp.where(excess <= 0, tau, tau + excess / jnp.maximum(count, 1))

    def climbing(state):
        before, now = state
        return now > before

    # The climb is not differentiated: the derivative of the fixed point is that of one last
    # Newton step taken at it, where the step itself no longer depends on tau.
    fixed = lax.stop_gradient((list(leaves), radius))
    first = newton(*fixed, jnp.asarray(0, dtype))
    _, tau = lax.while_loop(
        climbing, lambda state: (state[1], newton(*fixed, state[1])), (jnp.zeros_like(first), first)
    )
    excess, count = excess_and_count(leaves, radius, tau)
    outside = ~(tau <= 0)
    tau = tau + jnp.where(outside, excess / jnp.maximum(count, 1), 0)
    # Rounding could leave the largest entry a hair above tau where nothing may stay.
    return jnp.where((radius == 0) & (tau >= 0), jnp.inf, tau)
