"""Constraints that are loosened or tightened on their way to the multipliers."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax import _checks
from sparsejax.constraints import _ascent


class AnnealBoundState(NamedTuple):
    """State of `anneal_bound`."""

    step: jax.Array
    """int32: updates made, where the schedule stands."""


def anneal_bound(amount: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    r"""Let the multipliers see the violations less a slack.

    .. math:: g_t \leftarrow g(x_t) - s_t

    The first link of a chain of dual optimizers. A slack that falls to 0 closes in on a constraint
    at a chosen pace, so that the multiplier need not overshoot to get there; a negative one at the
    end is a margin, with which training ends inside the constraint rather than on it::

        closing = optax.polynomial_schedule(0.6, -0.001, power=3, transition_steps=40_000)
        dual = optax.chain(anneal_bound(closing), nupi(ki=1e-3, kp=20.0))
        optimizer = descent_ascent(optax.adam(7e-4), dual)

    Args:
      amount: s, in the units of the violations, the same for each; any finite scalar, may be
        traced; or a schedule of the number of updates.

    Returns:
      A ``GradientTransformation`` with the calling convention of `dual_ascent`: ``updates`` are the
      violations, of float32 or wider afterwards. Its ``update`` makes no use of ``params``.

    Raises:
      ValueError: ``amount`` is not a finite scalar.
    """
    amount_at = _checks.schedule("amount", amount, "a finite number", math.isfinite)

    def init(multipliers):
        del multipliers
        return AnnealBoundState(jnp.asarray(0, jnp.int32))

    def update(violation, state, multipliers=None):
        del multipliers
        now = amount_at(state.step)

        def loosen(g):
            wide = _ascent.wide_of(g)
            return jnp.asarray(g, wide) - now.astype(wide)

        return jax.tree.map(loosen, violation), AnnealBoundState(optax.safe_increment(state.step))

    return optax.GradientTransformation(init, update)
