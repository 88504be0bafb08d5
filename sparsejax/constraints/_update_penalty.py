"""Growth of the coefficients of a quadratic penalty while constraints are violated."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree, Real

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax._explicit_axes import cut_like
from sparsejax.constraints import _arguments
from sparsejax.constraints._implicit_multipliers import is_implicit
from sparsejax.constraints._indexed import is_indexed, spread
from sparsejax.constraints._shown_terms import is_special


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
      violation: pytree of float arrays g, <= 0 where a constraint is satisfied; or with `Indexed`
        in place of an array: then the coefficient of each constraint is an entry of an array like
        the multipliers, and those that are not shown stay as they are.
      factor: a, a scalar ``>= 1``, may be traced.
      increment: b, a scalar ``>= 0``, may be traced.
      tolerance: tau, a scalar ``>= 0``; coefficients grow where a violation exceeds it.
      restart: c_0, to which the coefficient of a satisfied inequality returns, a scalar > 0; None
        for no return.
      equality: whether the constraints are  g(x) = 0 ; these never return.

    Returns:
      A tree of the structure and shapes of the violations (of the multipliers where these are
      `Indexed`), of the dtypes of ``penalty`` (a Python number is float32). Where constraints share
      a coefficient, each has one of its own afterwards. A violation that is not a number makes its
      coefficient NaN.

    Raises:
      TypeError: a scalar is not a number, ``penalty`` is not floating point, or ``violation`` is
        `Implicit`, whose constraints cannot have coefficients of their own.
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
    penalty = jax.tree.map(lambda c: jnp.float32(c) if type(c) in (int, float) else c, penalty)
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
        return jnp.where(jnp.isnan(size), jnp.nan, new).astype(c.dtype)

    def of_leaf(path: Any, g: Any, c: Array) -> Array:
        name, c = f"penalty{jax.tree_util.keystr(path)}", jnp.asarray(c)
        if is_implicit(g):
            raise TypeError(
                "violation must not be Implicit, whose constraints change from batch to batch: "
                "none can have a coefficient of its own"
            )
        if is_indexed(g):
            if c.ndim == 0:
                raise ValueError(
                    f"{name} must be an array with a coefficient for each constraint, since their "
                    "violations are Indexed; got a scalar"
                )
            dense, seen = spread(g, c)
            return jnp.where(seen, updated(c, dense), c)
        if not _checks.broadcasts(c.shape, jnp.shape(g)):
            raise ValueError(
                f"{name} must broadcast to the shape of its violation, {jnp.shape(g)}; got shape "
                f"{c.shape}"
            )
        return updated(cut_like(jnp.broadcast_to(c, jnp.shape(g)), jnp.asarray(g)), g)

    places = jax.tree.map(lambda g: 0, violation, is_leaf=is_special)
    try:
        each = jax.tree.broadcast(penalty, places)
    except ValueError as error:
        structures: tuple[Any, Any] = jax.tree.structure(penalty), jax.tree.structure(places)
        raise ValueError(
            "penalty must be a scalar or a prefix of the violations; its structure is "
            f"{structures[0]}, theirs is {structures[1]}"
        ) from error
    return jax.tree_util.tree_map_with_path(of_leaf, violation, each, is_leaf=is_special)
