"""The least-squares weights under a fixed mask, by conjugate gradients for all rows at once."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.oneshot._method import Gram, Weights
from sparsejax.oneshot._patterns import Mask
from sparsejax.oneshot._products import matmul


class _State(NamedTuple):
    weights: Weights
    residual: Weights
    direction: Weights
    product: jax.Array
    """For each row the product of the residual and the preconditioned residual; 0 once the row has
    converged, after which it stays as it is."""
    number: jax.Array
    """The number of iterations that are done."""


def refit(weights: Weights, target: Weights, gram: Gram, mask: Mask, iterations: int) -> Weights:
    r"""Lower the error of masked weights by conjugate gradients.

    .. math:: \min_W \mathrm{tr}\,(W - W_0)\, H\, (W - W_0)^\top \quad\text{s.t.}\quad W = M \odot W

    Each row is a problem of its own, preconditioned by the diagonal of H. No iteration increases
    the error beyond rounding. Each costs one product of W and H. A row ends where its residual, or
    the curvature along its direction, is lost in rounding: after that, steps would be quotients of
    rounding errors.

    Args:
      weights: where to start; zero outside of the mask.
      target: :math:`W_0`.
      gram: H.
      mask: M.
      iterations: the largest number of iterations.
    """
    diagonal = jnp.where(jnp.diagonal(gram) > 0, jnp.diagonal(gram), 1)
    scale = 1 / diagonal
    rounding = jnp.finfo(gram.dtype)
    residual = jnp.where(mask, matmul(target - weights, gram), 0)
    direction = residual * scale
    product = _dots(residual, direction)
    lost = gram.shape[0] * rounding.eps  # a matrix rounded entry by entry has such an error
    least = jnp.maximum(rounding.eps**2 * product, rounding.tiny / rounding.eps**0.5)

    def iterate(now: _State) -> _State:
        image = jnp.where(mask, matmul(now.direction, gram), 0)
        curvature = _dots(now.direction, image)
        norm = _dots(now.direction * diagonal, now.direction)
        live = (now.product > least) & (curvature > lost * norm)
        step = _ratio(now.product, curvature, live)
        residual = now.residual - step * image
        scaled = residual * scale
        product = _dots(residual, scaled)
        direction = scaled + _ratio(product, now.product, live) * now.direction
        return _State(
            now.weights + step * now.direction,
            residual,
            direction,
            jnp.where(live, product, 0),
            now.number + 1,
        )

    def unfinished(now: _State) -> jax.Array:
        return (now.number < iterations) & (now.product > least).any()

    start = _State(weights, residual, direction, product, jnp.zeros((), jnp.int32))
    last: _State = lax.while_loop(unfinished, iterate, start)
    return last.weights


def _dots(left: Weights, right: Weights) -> jax.Array:
    return (left * right).sum(1, keepdims=True)


def _ratio(over: jax.Array, under: jax.Array, live: jax.Array) -> jax.Array:
    """Return the quotient, and 0 where a row has converged."""
    return jnp.where(live, over / jnp.where(live, under, 1), 0)
