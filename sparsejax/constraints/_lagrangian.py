"""The Lagrangian and the augmented Lagrangian of a constrained problem."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree, Real

from sparsejax._dtypes import at_least_float32
from sparsejax.constraints import _arguments
from sparsejax.constraints._shown_terms import computed_multipliers, shown, shown_terms


def lagrangian(
    loss: Float[ArrayLike, ""],
    violation: PyTree[Float[Array, "..."]],
    multiplier: PyTree[Float[Array, "..."]],
) -> Float[Array, ""]:
    r"""Compute the Lagrangian of a constrained problem.

    .. math:: L(x, \lambda) = f(x) + \sum_i \lambda_i\, g_i(x)

    It is minimised over x and maximised over lambda (`dual_ascent`, `nupi`); its gradient with
    respect to lambda is g.

    Args:
      loss: scalar, f(x).
      violation: pytree of float arrays, g(x), which are <= 0 where a constraint is satisfied (= 0
        for an equality constraint); or with `Indexed` or `Implicit` in place of arrays, of which
        the terms that they show are added.
      multiplier: pytree of float arrays of the same structure and shapes, lambda; in the place of
        `Indexed` those of all constraints, in that of `Implicit` the parameters of its model.

    Returns:
      A scalar of the dtype of the loss, at least float32; where the loss is a Python number, of the
      dtype of the violations and multipliers.

    Raises:
      ValueError: ``violation`` and ``multiplier`` differ in structure or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.constraints import lagrangian
      >>> print(lagrangian(1.0, violation=jnp.array([0.5, -1.0]), multiplier=jnp.array([2.0, 0.0])))
      2.0
    """
    return _add_terms(loss, violation, multiplier, jnp.multiply)


def augmented_lagrangian(
    loss: Float[ArrayLike, ""],
    violation: PyTree[Float[Array, "..."]],
    multiplier: PyTree[Float[Array, "..."]],
    penalty: PyTree[Real[ArrayLike, "..."]],
    equality: bool = False,
) -> Float[Array, ""]:
    r"""Compute the Lagrangian with a quadratic penalty on violated constraints, the augmented one.

    The form of Powell, Hestenes and Rockafellar for inequality and for equality constraints is

    .. math:: f(x) + \frac{1}{2c}\sum_i\bigl(\max(0, \lambda_i + c\, g_i(x))^2 - \lambda_i^2\bigr),
              \qquad f(x) + \sum_i \lambda_i\, g_i(x) + \frac{c}{2}\, g_i(x)^2 .

    Its gradient with respect to x is that of the Lagrangian at the multipliers
    :math:`\max(0, \lambda + c\, g(x))`. Setting lambda to these, as
    ``dual_ascent(penalty, restarts=False)`` does, is the method of multipliers; in simultaneous
    steps smaller dual learning rates work as well. For constraints of both kinds pass the value of
    one call as the ``loss`` of another.

    Args:
      loss: scalar, f(x).
      violation: pytree of float arrays, g(x), as in `lagrangian`.
      multiplier: lambda, as in `lagrangian`.
      penalty: c, a positive scalar, may be traced; or a pytree of them that is a prefix of the
        violations, also as arrays that broadcast to the multipliers, for a coefficient of each
        constraint (see `update_penalty`).
      equality: whether the constraints are  g(x) = 0 .

    Returns:
      A scalar of the dtype that `lagrangian` returns.

    Raises:
      TypeError: ``penalty`` is not a number, such as a schedule.
      ValueError: ``violation`` and ``multiplier`` differ in structure or shape, or ``penalty`` is
        not positive and finite.

    References:
      Rockafellar, The multiplier method of Hestenes and Powell applied to convex programming,
      Journal of Optimization Theory and Applications, 1973.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.constraints import augmented_lagrangian
      >>> print(augmented_lagrangian(1.0, jnp.array(0.5), jnp.array(2.0), penalty=8.0))
      3.0
    """
    if any(map(callable, jax.tree.leaves(penalty))):
        raise TypeError(
            "penalty must be a number or hold numbers, since it counts no steps; got a function"
        )
    penalty_at = _arguments.gains(
        "penalty", penalty, "a finite number > 0", lambda x: 0 < x < math.inf
    )

    def term(m: Array, g: Array, c: Array) -> Array:
        weight = c.astype(m.dtype)
        inside = m * g + weight * g**2 / 2
        if equality:
            return inside
        # The expanded square, since the difference of two large squares cancels small terms.
        return jnp.where(m + weight * g < 0, -(m**2) / (2 * weight), inside)

    each = computed_multipliers(violation, multiplier)
    coefficients = shown(violation, penalty_at(jnp.asarray(0, jnp.int32), each))
    return _add_terms(loss, violation, multiplier, term, coefficients)


def _add_terms(
    loss: Float[ArrayLike, ""],
    violation: PyTree[Float[Array, "..."]],
    multiplier: PyTree[Float[Array, "..."]],
    term: Callable[..., Array],
    *others: PyTree[Array],
) -> Float[Array, ""]:
    violation, multiplier = shown_terms(violation, multiplier)
    _arguments.check_like_multipliers(violation, multiplier)
    _arguments.check_differentiable(violation)
    decide = [loss] if hasattr(loss, "dtype") else jax.tree.leaves((violation, multiplier))
    total = jnp.asarray(loss, at_least_float32(loss, *decide))
    trees = map(jax.tree.leaves, (multiplier, violation, *others))
    for m, g, *more in zip(*trees, strict=True):
        wide = at_least_float32(m, g)
        added = term(jnp.asarray(m, wide), jnp.asarray(g, wide), *more)
        total = total + added.sum().astype(total.dtype)
    return total
