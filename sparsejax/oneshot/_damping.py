"""Damped Gram matrices, which can be inverted."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

MOST = 1e6
"""The largest damping that is tried; a matrix that it does not make regular holds NaN."""

_Attempt: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]


class Damped(NamedTuple):
    """A damped Gram matrix and its factor."""

    gram: Float[Array, "inputs inputs"]
    """The damped matrix H."""
    factor: Float[Array, "inputs inputs"]
    """The lower triangular L of H = L L'."""
    raised: Float[Array, ""]
    """The damping that was needed where the given one was not enough, else 0."""


def damped(
    gram: Float[Array, "inputs inputs"], scale: Float[Array, "*inputs"], damping: float
) -> Damped:
    r"""Return a Gram matrix with an addition to its diagonal, and its Cholesky factor.

    .. math:: H = G + \delta\, \mathrm{diag}(s) = L L^\top

    Where the factor does not exist in floating point, the damping is raised tenfold until it does.

    Args:
      gram: G.
      scale: s > 0, a scalar or one number for each input.
      damping: :math:`\delta`.
    """
    identity = jnp.eye(gram.shape[0], dtype=gram.dtype)

    def attempt(amount: jax.Array) -> tuple[jax.Array, jax.Array]:
        whole = gram + amount * scale * identity
        return whole, jnp.linalg.cholesky(whole)

    def failed(state: _Attempt) -> jax.Array:
        # The last entry of a failed factorisation is NaN.
        return ~jnp.isfinite(state[1][-1, -1]) & (state[2] < MOST)

    def again(state: _Attempt) -> _Attempt:
        amount = jnp.maximum(10 * state[2], 10 * damping + 1e-6)
        return *attempt(amount), amount

    zero = jnp.zeros((), gram.dtype)
    first = (*attempt(zero + damping), zero)
    return Damped(*lax.while_loop(failed, again, first))


def inverse_diagonal(whole: Damped) -> Float[Array, " inputs"]:
    """Return the diagonal of H^-1 = L^-T L^-1."""
    identity = jnp.eye(whole.gram.shape[0], dtype=whole.gram.dtype)
    return jnp.square(solve_triangular(whole.factor, identity, lower=True)).sum(0)
