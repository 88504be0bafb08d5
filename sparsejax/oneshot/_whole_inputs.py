"""Whole inputs, pruned group by group by optimal brain surgery."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve, solve_triangular

from sparsejax.oneshot._damping import damped
from sparsejax.oneshot._method import Gram, Pruned, Weights
from sparsejax.oneshot._patterns import Pattern
from sparsejax.oneshot._products import matmul


class _State(NamedTuple):
    weights: Weights
    inverse: Gram
    """The inverse of H for the inputs that are left; 0 for the others."""
    alive: jax.Array
    """Whether each group is left."""


def prune_inputs(
    weights: Weights, gram: Gram, pattern: Pattern, count: jax.Array, damping: float
) -> Pruned:
    r"""Prune the group of inputs whose loss costs least, until ``count`` are left.

    .. math::

        s_g = \mathrm{tr}\, W_g\, ([H^{-1}]_{gg})^{-1}\, W_g^\top, \qquad
        W \leftarrow W - W_g\, ([H^{-1}]_{gg})^{-1}\, [H^{-1}]_{g:}

    The inverse then loses its rows and columns g in the same way. At the end the least-squares
    weights are solved for, so that no rounding adds up.
    """
    inputs = weights.shape[1]
    size = pattern.numbers[0]
    groups = inputs // size
    mean = jnp.mean(jnp.diagonal(gram))
    whole = damped(gram, jnp.where(mean > 0, mean, 1), damping)
    identity = jnp.eye(inputs, dtype=gram.dtype)
    half = solve_triangular(whole.factor, identity, lower=True)
    numbers = jnp.arange(groups, dtype=jnp.int32)

    def prune_group(state: _State) -> _State:
        blocks = state.inverse.reshape(groups, size, groups, size)[numbers, :, numbers]
        own = jnp.eye(size, dtype=gram.dtype)
        factors = jnp.linalg.cholesky(jnp.where(state.alive[:, None, None], blocks, own))
        columns = state.weights.T.reshape(groups, size, -1)
        solved = jax.vmap(lambda f, w: solve_triangular(f, w, lower=True))(factors, columns)
        # The costs of groups that are left stay below infinity, so that one of them is pruned even
        # where the costs overflow or a block has lost its positive definiteness to rounding.
        most = jnp.finfo(gram.dtype).max
        costs = jnp.nan_to_num(jnp.square(solved).sum((1, 2)), nan=most, posinf=most)
        costs = jnp.where(state.alive, costs, jnp.inf)
        group = jnp.argmin(costs).astype(jnp.int32)
        rows = lax.dynamic_slice_in_dim(state.inverse, group * size, size)
        update = cho_solve((factors[group], True), rows)
        left = jnp.repeat(numbers != group, size)
        lost = lax.dynamic_slice_in_dim(state.weights, group * size, size, axis=1)
        found = state.weights - matmul(lost, update)
        inverse = state.inverse - matmul(rows.T, update)
        return _State(
            jnp.where(left, found, 0),
            jnp.where(left & left[:, None], inverse, 0),
            state.alive & (numbers != group),
        )

    start = _State(weights, matmul(half.T, half), jnp.ones(groups, bool))
    last: _State = lax.while_loop(lambda s: s.alive.sum() > count, prune_group, start)
    left = jnp.repeat(last.alive, size)
    masked = jnp.where(left & left[:, None], whole.gram, identity)
    target = jnp.where(left, matmul(weights, whole.gram), 0)
    found = cho_solve((jnp.linalg.cholesky(masked), True), target.T).T
    return jnp.where(left, found, 0), whole.raised
