"""A transformation that anneals the bound of a constraint."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax.constraints._shown_terms import map_values


class AnnealBoundState(NamedTuple):
    """State of `anneal_bound`.

    Attributes:
      step: int32 scalar, the number of updates so far.
    """

    step: Int32[Array, ""]


def anneal_bound(bound: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    r"""Relax or tighten the constraints g(x) <= 0 to g(x) <= b_t, with a scheduled bound b_t.

    .. math:: g_t \leftarrow g(x_t) - b_t

    It is the first transformation in a chain of dual optimizers, also before `indexed` or
    `implicit_multipliers`, whose violations it shifts. A bound that decreases to 0 leads the
    violation down at a chosen rate, so that the multiplier does not overshoot; a bound that ends
    below 0 is a margin, with which training ends inside the constraint and not on it. The
    parameters do not see the bound. That is right for `lagrangian`, whose gradient does not depend
    on it; with `augmented_lagrangian` subtract the bound in the constraint instead.

    Args:
      bound: b, in the units of the violations, the same for all of them; a finite scalar, which may
        be traced, or a schedule of the number of updates.

    Returns:
      A ``GradientTransformation`` with the calling convention of `dual_ascent`: ``updates`` are the
      violations, which become float32 or wider. ``update`` does not read ``params``.

    Raises:
      TypeError: ``bound`` is neither a number nor a schedule.
      ValueError: ``bound`` is not a finite scalar.

    Example:
      >>> import optax
      >>> from sparsejax.constraints import anneal_bound, descent_ascent, nupi
      >>> bound = optax.polynomial_schedule(0.6, -0.001, power=3, transition_steps=40_000)
      >>> dual = optax.chain(anneal_bound(bound), nupi(ki=1e-3, kp=20.0))
      >>> optimizer = descent_ascent(optax.adam(7e-4), dual)
    """
    bound_at = _checks.schedule("bound", bound, "a finite number", math.isfinite)

    def init(params: optax.Params) -> AnnealBoundState:
        del params
        return AnnealBoundState(jnp.asarray(0, jnp.int32))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AnnealBoundState]:
        del params
        current = bound_at(state.step)

        def shift(g: Array) -> Array:
            wide = at_least_float32(g)
            return jnp.asarray(g, wide) - current.astype(wide)

        step = jnp.asarray(optax.safe_increment(state.step))
        return map_values(shift, updates), AnnealBoundState(step)

    return optax.GradientTransformation(init, update)
