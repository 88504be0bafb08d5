"""The nuPI controller, a dual optimizer with proportional and integral terms."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int32, PyTree, Real

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax.constraints import _arguments, _ascent


class NuPIState(NamedTuple):
    """State of `nupi`.

    Attributes:
      step: int32 scalar, the number of updates so far.
      average: pytree like the multipliers, float32 or wider: xi, the exponential moving average of
        the violations.
      seen: pytree like the multipliers, bool: whether the average of each has begun; None where all
        begin at zero.
    """

    step: Int32[Array, ""]
    average: PyTree[Float[Array, "..."]]
    seen: PyTree[Bool[Array, "..."]] | None


def nupi(
    ki: PyTree[optax.ScalarOrSchedule],
    kp: PyTree[optax.ScalarOrSchedule],
    nu: Real[ArrayLike, ""] = 0.0,
    equality: bool = False,
    initial_average: Literal["violation", "zero"] = "violation",
) -> optax.GradientTransformation:
    r"""Make multipliers proportional to the violation and to its integral (the nuPI controller).

    With the violation  g_t  at step t and its moving average  xi_t,

    .. math:: \xi_t = \nu\,\xi_{t-1} + (1-\nu)\,g_t, \qquad
              \lambda_{t+1} = \max\bigl(0,\; \lambda_t + \kappa_i\, g_t
                              + \kappa_p\,(\xi_t - \xi_{t-1})\bigr).

    While no multiplier is projected to 0, it equals
    :math:`\lambda_0 + \kappa_p(\xi_t - \xi_{-1}) + \kappa_i\sum_{s\le t} g_s`. The proportional
    term damps the oscillations of dual ascent, since it lowers the multiplier while the violation
    decreases, and so replaces dual restarts. The calling convention is that of `dual_ascent`.
    Special cases:

    - ``kp=0`` is dual ascent without restarts with learning rate ``ki``;
    - ``kp=ki, nu=0`` is optimistic gradient ascent;
    - ``nu=b, ki=a/(1-b), kp=-a*b/(1-b)**2, initial_average="zero"`` is gradient ascent with Polyak
      momentum b and learning rate a;
    - ``nu=b, ki=a/(1-b), kp=-a*b**2/(1-b)**2, initial_average="zero"`` is gradient ascent with
      Nesterov momentum b and learning rate a.

    The last two are of theoretical interest: a negative ``kp`` amplifies oscillations.

    Args:
      ki: integral gain, a scalar ``>= 0``, may be traced; or a schedule of the number of updates;
        or a pytree of these that is a prefix of the multipliers, for a gain of each constraint,
        also as arrays that broadcast to the multipliers.
      kp: proportional gain, a finite scalar, a schedule or a pytree, likewise.
      nu: decay of the moving average, a scalar in ``(-1, 1)``, may be traced; 0 for no averaging.
      equality: whether the constraints are  g(x) = 0 ; their multipliers may have either sign and
        are not projected.
      initial_average: the average before the first step, xi_{-1}. ``"violation"`` is the first
        violation, so that the first update is that of dual ascent and the proportional term
        responds to changes from there on. ``"zero"`` makes the first update
        ``ki + kp * (1 - nu)`` times the violation, a jump if ``kp`` is large.

    Returns:
      A ``GradientTransformation`` like that of `dual_ascent`, whose state holds an average of
      float32 or wider for each multiplier.

    Raises:
      TypeError: ``ki``, ``kp`` or ``nu`` is not a number; in ``init``: a multiplier is not floating
        point.
      ValueError: ``ki``, ``kp``, ``nu`` or ``initial_average`` is outside its range; in ``init``
        and ``update``: as for `dual_ascent`.

    References:
      Sohrabi, Ramirez, Zhang, Lacoste-Julien and Gallego-Posada, On PI controllers for updating
      Lagrange multipliers in constrained optimization, ICML 2024.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from sparsejax.constraints import nupi
      >>> dual = nupi(ki=0.25, kp=0.5)
      >>> multiplier = jnp.array(0.0)
      >>> state = dual.init(multiplier)
      >>> for violation in (2.0, 1.75):  # decreasing, so the proportional term is negative
      ...     updates, state = dual.update(jnp.array(violation), state, multiplier)
      ...     multiplier = optax.apply_updates(multiplier, updates)
      ...     print(multiplier)
      0.5
      0.8125
    """
    ki_at = _arguments.gains("ki", ki, "a finite number >= 0", lambda x: 0 <= x < math.inf)
    kp_at = _arguments.gains("kp", kp, "a finite number", math.isfinite)
    memory = _checks.scalar("nu", nu, "a number between -1 and 1", lambda x: -1 < x < 1)
    if initial_average not in ("violation", "zero"):
        raise ValueError(f"initial_average must be 'violation' or 'zero'; got {initial_average!r}")

    def init(params: optax.Params) -> NuPIState:
        _arguments.check_multipliers(params, equality)
        zeros = jax.tree.map(lambda m: jnp.zeros_like(m, at_least_float32(m)), params)
        seen = None
        if initial_average == "violation":
            seen = jax.tree.map(lambda m: jnp.zeros_like(m, bool), params)
        return NuPIState(jnp.asarray(0, jnp.int32), zeros, seen)

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, NuPIState]:
        violation, multipliers = updates, params
        _ascent.check(violation, multipliers)
        violation = _ascent.placed(violation, multipliers)
        wide = jax.tree.map(lambda g, xi: jnp.asarray(g, xi.dtype), violation, state.average)
        before, seen = state.average, state.seen
        if initial_average == "violation":
            before = jax.tree.map(jnp.where, seen, before, wide)
            seen = jax.tree.map(jnp.ones_like, seen)
        change = jax.tree.map(lambda g, xi: (1 - memory).astype(g.dtype) * (g - xi), wide, before)
        integral, proportional = (at(state.step, multipliers) for at in (ki_at, kp_at))
        steps = jax.tree.map(
            lambda g, d, ki, kp: ki.astype(g.dtype) * g + kp.astype(g.dtype) * d,
            wide, change, integral, proportional,
        )  # fmt: skip
        ascent = _ascent.ascend(steps, violation, multipliers, equality)
        average = jax.tree.map(jnp.add, before, change)
        return ascent, NuPIState(jnp.asarray(optax.safe_increment(state.step)), average, seen)

    # optax's type of states leaves out None, which ``seen`` may be.
    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]
