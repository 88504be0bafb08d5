"""Projected gradient ascent on Lagrange multipliers, with dual restarts."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax import _checks
from sparsejax.constraints import _arguments, _ascent


class DualAscentState(NamedTuple):
    """State of `dual_ascent`."""

    step: jax.Array
    """int32: updates made, where the schedule stands."""


def dual_ascent(
    learning_rate: optax.ScalarOrSchedule, restarts: bool = True, equality: bool = False
) -> optax.GradientTransformation:
    r"""Raise the multipliers of violated constraints, let go of those that are satisfied.

    For the Lagrangian  f(x) + lambda g(x)  of  min f(x)  s.t.  g(x) <= 0,

    .. math:: \lambda \leftarrow \max(0,\; \lambda + \eta\, g(x)),
              \qquad \text{with restarts}\quad \lambda \leftarrow 0 \;\text{ where }\; g(x) \le 0.

    The calling convention of every dual optimizer here: ``updates`` are the violations g (a pytree
    like the multipliers, <= 0 where a constraint is satisfied), ``params`` are the multipliers, and
    ``optax.apply_updates(multipliers, updates)`` gives the new ones. It projects, so put it last in
    a chain; restarts look at the violation that arrives, so what precedes it should keep its sign.

    Without restarts the multiplier remembers the whole time that a constraint was violated, and
    pushes on well after it is satisfied; with them it forgets at once, so x tends to hover just
    outside of the constraint. See `nupi` for a way between the two.

    Args:
      learning_rate: scalar ``eta >= 0``, may be traced; or a schedule of the number of updates.
      restarts: whether a multiplier is reset to 0 wherever its constraint is satisfied.
      equality: the constraints are  g(x) = 0 : multipliers of either sign, without projection or
        restarts.

    Returns:
      A ``GradientTransformation``; ``update`` needs ``params``. Multipliers are of any shape and
      floating dtype; the updates are of float32 or wider, and a violation that is not finite turns
      its multiplier into NaN.

    Raises:
      TypeError: in ``init``: a multiplier is not floating point.
      ValueError: ``learning_rate`` is negative or not a finite scalar; in ``init``: a multiplier is
        negative (of an inequality) or not finite; in ``update``: ``params`` is missing, violations
        and multipliers differ in structure or shape, or a known violation (outside ``jit``) is not
        finite.

    References:
      Gallego-Posada, Ramirez, Erraqabi, Bengio and Lacoste-Julien, Controlled sparsity via
      constrained optimization or: how I learned to stop tuning penalties and love constraints,
      NeurIPS 2022.
    """
    rate_at = _checks.schedule(
        "learning_rate", learning_rate, "a finite number >= 0", lambda x: 0 <= x < math.inf
    )

    def init(multipliers):
        _arguments.check_multipliers(multipliers, equality)
        return DualAscentState(jnp.asarray(0, jnp.int32))

    def update(violation, state, multipliers=None):
        _ascent.check(violation, multipliers)
        rate = rate_at(state.step)

        def rise(g, multiplier):
            wide = _ascent.wide_of(multiplier)
            step = rate.astype(wide) * jnp.asarray(g, wide)
            if restarts and not equality:
                step = jnp.where(jnp.asarray(g) <= 0, -jnp.asarray(multiplier, wide), step)
            return step

        rises = jax.tree.map(rise, violation, multipliers)
        updates = _ascent.ascend(rises, violation, multipliers, equality)
        return updates, DualAscentState(optax.safe_increment(state.step))

    return optax.GradientTransformation(init, update)
