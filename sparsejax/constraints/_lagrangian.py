"""The Lagrangian and the augmented Lagrangian of a constrained problem."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from chex import Numeric

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax._where import PyTree
from sparsejax.constraints import _arguments


def lagrangian(loss: Numeric, violation: PyTree, multiplier: PyTree) -> jax.Array:
    r"""The loss plus the violations, each weighted by its multiplier.

    .. math:: L(x, \lambda) = f(x) + \sum_i \lambda_i\, g_i(x)

    Descend it in x, ascend it in lambda (`dual_ascent`, `nupi`); its gradient in lambda is g.

    Args:
      loss: scalar f(x).
      violation: a pytree of the g(x), <= 0 where a constraint is satisfied (of an equality: = 0).
      multiplier: a pytree of the same structure and shapes.

    Returns:
      A scalar of the loss's dtype, or float32 where that is narrower.

    Raises:
      ValueError: ``violation`` and ``multiplier`` differ in structure or shape.
    """
    return _add_terms(loss, violation, multiplier, jnp.multiply)


def augmented_lagrangian(
    loss: Numeric,
    violation: PyTree,
    multiplier: PyTree,
    penalty: Numeric,
    equality: bool = False,
) -> jax.Array:
    r"""The Lagrangian with a quadratic penalty on what is violated.

    Powell, Hestenes and Rockafellar's form, and that of equality constraints:

    .. math:: f(x) + \frac{1}{2c}\sum_i\bigl(\max(0, \lambda_i + c\, g_i(x))^2 - \lambda_i^2\bigr),
              \qquad f(x) + \sum_i \lambda_i\, g_i(x) + \frac{c}{2}\, g_i(x)^2 .

    Its gradient in x is that of the Lagrangian at the multipliers
    :math:`\max(0, \lambda + c\, g(x))`, and setting lambda to these is the method of multipliers:
    ``dual_ascent(penalty, restarts=False)``. In a simultaneous step smaller learning rates do, too.
    Constraints of both kinds: give the value of one call as the ``loss`` of the other.

    Args:
      loss: scalar f(x).
      violation: a pytree of the g(x), as in `lagrangian`.
      multiplier: a pytree of the same structure and shapes.
      penalty: scalar ``c > 0``, may be traced.
      equality: the constraints are  g(x) = 0.

    Returns:
      A scalar of the loss's dtype, or float32 where that is narrower.

    Raises:
      ValueError: ``violation`` and ``multiplier`` differ in structure or shape; ``penalty`` is not
        a positive, finite scalar.

    References:
      Rockafellar, The multiplier method of Hestenes and Powell applied to convex programming,
      Journal of Optimization Theory and Applications, 1973.
    """
    c = _checks.scalar("penalty", penalty, "a finite number > 0", lambda x: 0 < x < math.inf)

    def term(m: jax.Array, g: jax.Array) -> jax.Array:
        weight = c.astype(m.dtype)
        inside = m * g + weight * g**2 / 2
        if equality:
            return inside
        # The square written out, since the difference of two large squares loses small ones.
        return jnp.where(m + weight * g < 0, -(m**2) / (2 * weight), inside)

    return _add_terms(loss, violation, multiplier, term)


def _add_terms(
    loss: Numeric,
    violation: PyTree,
    multiplier: PyTree,
    term: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    _arguments.check_like_multipliers(violation, multiplier)
    total = jnp.asarray(loss, at_least_float32(loss))
    pairs = zip(jax.tree.leaves(multiplier), jax.tree.leaves(violation), strict=True)
    for m, g in pairs:
        wide = at_least_float32(m, g)
        total = total + term(jnp.asarray(m, wide), jnp.asarray(g, wide)).sum().astype(total.dtype)
    return total
