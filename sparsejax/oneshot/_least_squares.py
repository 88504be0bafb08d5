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
    """For each row the product of the residual and the preconditioned residual."""


def refit(weights: Weights, target: Weights, gram: Gram, mask: Mask, iterations: int) -> Weights:
    r"""Lower the error of masked weights by conjugate gradients.

    .. math:: \min_W \mathrm{tr}\,(W - W_0)\, H\, (W - W_0)^\top \quad\text{s.t.}\quad W = M \odot W

    Each row is a problem of its own, preconditioned by the diagonal of H. No iteration increases
    the error. Each costs one product of W and H.

    Args:
      weights: where to start; zero outside of the mask.
      target: :math:`W_0`.
      gram: H.
      mask: M.
      iterations: the number of iterations.
    """
    scale = 1 / jnp.where(jnp.diagonal(gram) > 0, jnp.diagonal(gram), 1)
    residual = jnp.where(mask, matmul(target - weights, gram), 0)
    direction = residual * scale
    start = _State(weights, residual, direction, _dots(residual, direction))

    def iterate(_: jax.Array, now: _State) -> _State:
        image = jnp.where(mask, matmul(now.direction, gram), 0)
        step = _ratio(now.product, _dots(now.direction, image))
        residual = now.residual - step * image
        scaled = residual * scale
        product = _dots(residual, scaled)
        direction = scaled + _ratio(product, now.product) * now.direction
        return _State(now.weights + step * now.direction, residual, direction, product)

    last: _State = lax.fori_loop(0, iterations, iterate, start)
    return last.weights


def _dots(left: Weights, right: Weights) -> jax.Array:
    return (left * right).sum(1, keepdims=True)


def _ratio(over: jax.Array, under: jax.Array) -> jax.Array:
    """Return the quotient, and 0 where a row has converged."""
    return jnp.where(under > 0, over / jnp.where(under > 0, under, 1), 0)
