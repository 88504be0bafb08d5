"""Projected gradient ascent on Lagrange multipliers, with dual restarts."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32, PyTree

from sparsejax._dtypes import at_least_float32
from sparsejax.constraints import _arguments, _ascent


class DualAscentState(NamedTuple):
    """State of `dual_ascent`.

    Attributes:
      step: int32 scalar, the number of updates so far.
    """

    step: Int32[Array, ""]


def dual_ascent(
    learning_rate: PyTree[optax.ScalarOrSchedule], restarts: bool = True, equality: bool = False
) -> optax.GradientTransformation:
    r"""Projected gradient ascent on Lagrange multipliers, with dual restarts.

    For  min f(x)  subject to  g(x) <= 0  with the Lagrangian  f(x) + lambda g(x),

    .. math:: \lambda \leftarrow \max(0,\; \lambda + \eta\, g(x)),
              \qquad \text{and with restarts}\quad \lambda \leftarrow 0 \;\text{ if }\; g(x) \le 0.

    All dual optimizers here have this calling convention: ``updates`` are the violations g, a
    pytree like the multipliers that is <= 0 where a constraint is satisfied; ``params`` are the
    multipliers; and ``optax.apply_updates(multipliers, updates)`` returns the new multipliers. The
    update includes the projection, so the transformation must be the last of a chain. Restarts
    depend on the sign of the violation, which transformations before it should not change.

    Without restarts the multiplier accumulates the violation from all of training and overshoots
    after the constraint is satisfied. With restarts it is reset at once, so that x tends to hover
    just outside of the constraint. `nupi` avoids both.

    Args:
      learning_rate: scalar ``eta >= 0``, may be traced; or a schedule of the number of updates; or
        a pytree of these that is a prefix of the multipliers, for a rate of each constraint, also
        as arrays that broadcast to the multipliers.
      restarts: whether a multiplier is reset to 0 when its constraint is satisfied.
      equality: whether the constraints are  g(x) = 0 ; their multipliers may have either sign and
        are neither projected nor restarted.

    Returns:
      A ``GradientTransformation`` whose ``update`` needs ``params``. Multipliers have any shape and
      floating-point dtype; updates are float32 or wider. A violation that is not finite makes its
      multiplier NaN.

    Raises:
      TypeError: ``learning_rate`` is not a number; in ``init``: a multiplier is not floating point.
      ValueError: ``learning_rate`` is negative or not finite; in ``init``: a multiplier is
        not finite, or is negative and belongs to an inequality; in ``update``: ``params`` is
        missing, violations and multipliers differ in structure or shape, or a known violation
        (outside ``jit``) is not finite.

    References:
      Gallego-Posada, Ramirez, Erraqabi, Bengio and Lacoste-Julien, Controlled sparsity via
      constrained optimization or: how I learned to stop tuning penalties and love constraints,
      NeurIPS 2022.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from sparsejax.constraints import dual_ascent
      >>> dual = dual_ascent(learning_rate=0.1)
      >>> multipliers = {"size": jnp.array(1.0), "speed": jnp.array(1.0)}
      >>> violation = {"size": jnp.array(0.5), "speed": jnp.array(-0.5)}
      >>> updates, state = dual.update(violation, dual.init(multipliers), multipliers)
      >>> new = optax.apply_updates(multipliers, updates)
      >>> print(new["size"], new["speed"])
      1.05 0.0
    """
    rate_at = _arguments.gains(
        "learning_rate", learning_rate, "a finite number >= 0", lambda x: 0 <= x < math.inf
    )

    def init(params: optax.Params) -> DualAscentState:
        _arguments.check_multipliers(params, equality)
        return DualAscentState(jnp.asarray(0, jnp.int32))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, DualAscentState]:
        violation, multipliers = updates, params
        _ascent.check(violation, multipliers)
        violation = _ascent.placed(violation, multipliers)

        def step_of(g: Array, multiplier: Array, rate: Array) -> Array:
            wide = at_least_float32(multiplier)
            step = rate.astype(wide) * jnp.asarray(g, wide)
            if restarts and not equality:
                step = jnp.where(jnp.asarray(g) <= 0, -jnp.asarray(multiplier, wide), step)
            return step

        rates = rate_at(state.step, multipliers)
        steps = jax.tree.map(step_of, violation, multipliers, rates)
        ascent = _ascent.ascend(steps, violation, multipliers, equality)
        return ascent, DualAscentState(jnp.asarray(optax.safe_increment(state.step)))

    return optax.GradientTransformation(init, update)
