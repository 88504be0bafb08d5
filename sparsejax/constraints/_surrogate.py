"""Constraints whose gradient is that of another function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree, Shaped

from sparsejax.constraints import _arguments


def with_surrogate(
    violation: PyTree[Shaped[Array, "..."]], surrogate: PyTree[Float[Array, "..."]]
) -> PyTree[Float[Array, "..."]]:
    r"""Return violations with the gradient of a surrogate.

    .. math:: \text{value: } g(x), \qquad \text{gradient: } \nabla \tilde g(x)

    The multipliers see the violation itself, such as an error rate, which need not be
    differentiable, and the parameters move by the gradient of the surrogate, such as a hinge loss.

    Args:
      violation: pytree of arrays, g(x); integers and booleans, such as counts of errors, become
        the surrogate's dtype, without which they would have no gradient.
      surrogate: pytree of differentiable float arrays of the same structure and shapes.

    Returns:
      A tree like ``violation`` with its values, and its dtypes where they are floating point.

    Raises:
      TypeError: a surrogate is not floating point.
      ValueError: ``violation`` and ``surrogate`` differ in structure or shape.

    References:
      Cotter et al., Optimization with non-differentiable constraints with applications to fairness,
      recall, churn, and other goals, JMLR 20 (2019).

    Example:
      >>> import jax
      >>> from sparsejax.constraints import with_surrogate
      >>> value, slope = jax.value_and_grad(lambda x: with_surrogate(x // 1, 2 * x))(1.5)
      >>> print(value, slope)
      1.0 2.0
    """
    _arguments.check_like_multipliers(violation, surrogate)

    def combine(g: Array, s: Array) -> Array:
        g, s = jnp.asarray(g), jnp.asarray(s)
        if not jnp.issubdtype(s.dtype, jnp.floating):
            raise TypeError(f"surrogate must be floating point; got {s.dtype}")
        if not jnp.issubdtype(g.dtype, jnp.floating):
            g = g.astype(s.dtype)
        return lax.stop_gradient(g) + (s - lax.stop_gradient(s)).astype(g.dtype)

    return jax.tree.map(combine, violation, surrogate)
