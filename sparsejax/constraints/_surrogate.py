"""Constraints whose gradient is that of another function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

from sparsejax._dtypes import at_least_float32
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
        float32 or the wider dtype of the surrogate, since they would have no gradient.
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
    _arguments.check_like(violation, surrogate, "surrogate")

    def combine(g: Array, s: Array) -> Array:
        g, s = jnp.asarray(g), jnp.asarray(s)
        if not jnp.issubdtype(s.dtype, jnp.floating):
            raise TypeError(f"surrogate must be floating point; got {s.dtype}")
        if not jnp.issubdtype(g.dtype, jnp.floating):
            g = g.astype(at_least_float32(s))
        return _with_gradient_of(g, s)

    return jax.tree.map(combine, violation, surrogate)


@jax.custom_jvp
def _with_gradient_of(g: Array, s: Array) -> Array:
    """Return g, whose derivative is that of s: also where s is infinite."""
    del s
    return g


@_with_gradient_of.defjvp
def _derivative(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (g, s), (_, tangent) = primals, tangents
    return _with_gradient_of(g, s), tangent.astype(g.dtype)
