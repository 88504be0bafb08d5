"""Growth of the coefficients of a quadratic penalty while constraints are violated."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree, Real

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax.constraints import _arguments


def update_penalty(
    penalty: PyTree[Float[Array, "..."]],
    violation: PyTree[Float[Array, "..."]],
    factor: Real[ArrayLike, ""] = 1.0,
    increment: Real[ArrayLike, ""] = 0.0,
    tolerance: Real[ArrayLike, ""] = 0.0,
    restart: Real[ArrayLike, ""] | None = None,
    equality: bool = False,
) -> PyTree[Float[Array, "..."]]:
    r"""Return the coefficients of a penalty, grown where a constraint is still violated.

    .. math:: c \leftarrow \begin{cases} a\,c + b & g > \tau \quad (|g| > \tau
              \text{ for equalities})\\ c_0 & g \le 0 \text{, with a restart}\\
              c & \text{otherwise} \end{cases}

    Pass the result as the ``penalty`` of `augmented_lagrangian`, which takes one for each
    constraint. Multiplication alone (``factor > 1``) is the method of multipliers; addition alone
    (``increment > 0``) grows slower.

    Args:
      penalty: c, a positive float scalar, or a pytree of float scalars and arrays that is a prefix
        of the violations and whose leaves broadcast to theirs.
      violation: pytree of float arrays g, <= 0 where a constraint is satisfied.
      factor: a, a scalar ``>= 1``, may be traced.
      increment: b, a scalar ``>= 0``, may be traced.
      tolerance: tau, a scalar ``>= 0``; coefficients grow where a violation exceeds it.
      restart: c_0, to which the coefficient of a satisfied inequality returns, a scalar > 0; None
        for no return.
      equality: whether the constraints are  g(x) = 0 ; these never return.

    Returns:
      A tree of the structure and shapes of the violations, of the dtypes of ``penalty`` (a Python
      number is float32). Where constraints share a coefficient, each has one of its own afterwards.

    Raises:
      TypeError: a scalar is not a number, or ``penalty`` is not floating point.
      ValueError: a scalar or a known ``penalty`` is out of its range, ``penalty`` is no prefix of
        ``violation``, or does not broadcast to its shapes.

    References:
      Bertsekas, Constrained optimization and Lagrange multiplier methods, Academic Press 1982.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.constraints import update_penalty
      >>> violation = jnp.array([0.5, 0.05, -1.0])
      >>> print(update_penalty(jnp.full(3, 4.0), violation, 2.0, tolerance=0.1, restart=1.0))
      [8. 4. 1.]
    """
    penalty = _for_each(penalty, violation)
    _arguments.check_floats("penalty", penalty, "> 0", lambda c: c > 0)
    a = _checks.scalar("factor", factor, "a finite number >= 1", lambda x: 1 <= x < math.inf)
    b = _checks.scalar("increment", increment, "a finite number >= 0", lambda x: 0 <= x < math.inf)
    tau = _checks.scalar_at_least_zero("tolerance", tolerance)
    start = None
    if restart is not None:
        start = _checks.scalar("restart", restart, "a number > 0", lambda x: 0 < x < math.inf)

    def updated(c: Array, g: Array) -> Array:
        wide = at_least_float32(c)
        size = jnp.asarray(jnp.abs(g) if equality else g, wide)
        old = jnp.asarray(c, wide)
        new = jnp.where(size > tau.astype(wide), a.astype(wide) * old + b.astype(wide), old)
        if start is not None and not equality:
            new = jnp.where(size <= 0, start.astype(wide), new)
        return new.astype(jnp.asarray(c).dtype)

    return jax.tree.map(updated, penalty, violation)


def _for_each(penalty: PyTree[Array], violation: PyTree[Array]) -> PyTree[Array]:
    """Return a coefficient for each constraint."""
    penalty = jax.tree.map(lambda c: jnp.float32(c) if type(c) in (int, float) else c, penalty)
    try:
        spread = jax.tree.broadcast(penalty, violation)
    except ValueError as error:
        structures: tuple[Any, Any] = jax.tree.structure(penalty), jax.tree.structure(violation)
        raise ValueError(
            "penalty must be a scalar or a prefix of the violations; its structure is "
            f"{structures[0]}, theirs is {structures[1]}"
        ) from error

    def one(path: Any, c: Array, g: Array) -> Array:
        try:
            return jnp.broadcast_to(c, jnp.shape(g))
        except ValueError as error:
            raise ValueError(
                f"penalty{jax.tree_util.keystr(path)} must broadcast to the shape of its "
                f"violation, {jnp.shape(g)}; got shape {jnp.shape(c)}"
            ) from error

    return jax.tree_util.tree_map_with_path(one, spread, violation)
