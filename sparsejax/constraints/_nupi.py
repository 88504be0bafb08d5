"""The nuPI controller of Lagrange multipliers."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from chex import Numeric

from sparsejax import _checks
from sparsejax._where import PyTree
from sparsejax.constraints import _arguments, _ascent


class NuPIState(NamedTuple):
    """State of `nupi`."""

    step: jax.Array
    """int32: updates made, where the schedules stand."""
    average: PyTree
    """xi: the exponential moving average of the violations, float32 or wider."""


def nupi(
    ki: optax.ScalarOrSchedule,
    kp: optax.ScalarOrSchedule,
    nu: Numeric = 0.0,
    equality: bool = False,
    first_average: Literal["violation", "zero"] = "violation",
) -> optax.GradientTransformation:
    r"""Control the multipliers by the violation (proportional) and by its sum (integral).

    With the violation  g_t  of step t and its moving average  xi_t,

    .. math:: \xi_t = \nu\,\xi_{t-1} + (1-\nu)\,g_t, \qquad
              \lambda_{t+1} = \max\bigl(0,\; \lambda_t + \kappa_i\, g_t
                              + \kappa_p\,(\xi_t - \xi_{t-1})\bigr).

    As long as nothing is cut off at 0, the multiplier is
    :math:`\lambda_0 + \kappa_p(\xi_t - \xi_{-1}) + \kappa_i\sum_{s\le t} g_s`. The
    proportional part damps the oscillations of dual ascent: it lets go while the violation is still
    falling, and so replaces dual restarts. The calling convention is that of `dual_ascent`.
    Special cases:

    - ``kp=0``: dual ascent without restarts, of learning rate ``ki``;
    - ``kp=ki, nu=0``: optimistic gradient ascent;
    - ``nu=b, ki=a/(1-b), kp=-a*b/(1-b)**2, first_average="zero"``: ascent with Polyak's momentum b
      and learning rate a;
    - ``nu=b, ki=a/(1-b), kp=-a*b**2/(1-b)**2, first_average="zero"``: the same with Nesterov's
      momentum.

    The last two are there for the theory: their ``kp`` is negative, which excites oscillations.

    Args:
      ki: integral gain, scalar ``>= 0``, may be traced; or a schedule of the number of updates.
      kp: proportional gain, any finite scalar, may be traced; or a schedule.
      nu: memory of the moving average, scalar in ``(-1, 1)``, may be traced; 0 for none.
      equality: the constraints are  g(x) = 0 : multipliers of either sign, without projection.
      first_average: what the average is before the first step, xi_{-1}: ``"violation"``, the first
        violation, so that the proportional part answers changes from there on and the first update
        is that of dual ascent; or ``"zero"``, so that the first update is ``ki + kp * (1 - nu)``
        times the violation, a jump where ``kp`` is large.

    Returns:
      A ``GradientTransformation``, as that of `dual_ascent`. Its state adds an average of float32
      or wider to each multiplier.

    Raises:
      TypeError: in ``init``: a multiplier is not floating point.
      ValueError: ``ki``, ``kp``, ``nu`` or ``first_average`` is none of what is allowed; in
        ``init`` and ``update``: as for `dual_ascent`.

    References:
      Sohrabi, Ramirez, Zhang, Lacoste-Julien and Gallego-Posada, On PI controllers for updating
      Lagrange multipliers in constrained optimization, ICML 2024.
    """
    ki_at = _checks.schedule("ki", ki, "a finite number >= 0", lambda x: 0 <= x < math.inf)
    kp_at = _checks.schedule("kp", kp, "a finite number", math.isfinite)
    memory = _checks.scalar("nu", nu, "a number between -1 and 1", lambda x: -1 < x < 1)
    if first_average not in ("violation", "zero"):
        raise ValueError(f"first_average must be 'violation' or 'zero'; got {first_average!r}")

    def init(multipliers):
        _arguments.check_multipliers(multipliers, equality)
        zeros = jax.tree.map(lambda m: jnp.zeros_like(m, _ascent.wide_of(m)), multipliers)
        return NuPIState(jnp.asarray(0, jnp.int32), zeros)

    def update(violation, state, multipliers=None):
        _ascent.check(violation, multipliers)
        wide = jax.tree.map(lambda g, xi: jnp.asarray(g, xi.dtype), violation, state.average)
        before = state.average
        if first_average == "violation":
            first = state.step == 0
            before = jax.tree.map(lambda g, xi: jnp.where(first, g, xi), wide, before)
        change = jax.tree.map(lambda g, xi: (1 - memory).astype(g.dtype) * (g - xi), wide, before)
        integral, proportional = ki_at(state.step), kp_at(state.step)
        rises = jax.tree.map(
            lambda g, d: integral.astype(g.dtype) * g + proportional.astype(g.dtype) * d,
            wide, change,
        )  # fmt: skip
        updates = _ascent.ascend(rises, violation, multipliers, equality)
        average = jax.tree.map(jnp.add, before, change)
        return updates, NuPIState(optax.safe_increment(state.step), average)

    return optax.GradientTransformation(init, update)
