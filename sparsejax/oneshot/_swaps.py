"""A local search that exchanges kept and pruned weights of an output."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sparsejax import _checks
from sparsejax.oneshot._least_squares import refit
from sparsejax.oneshot._method import Gram, Method, Pruned, Weights
from sparsejax.oneshot._patterns import Mask, Pattern
from sparsejax.oneshot._products import matmul
from sparsejax.oneshot._wanda import wanda
from sparsejax.oneshot._whole_outputs import live_inputs, prune_outputs


def swaps(
    start: Method | None = None,
    rounds: int = 100,
    refit_iterations: int = 0,
    damping: float = 0.001,
) -> Method:
    r"""Exchange kept and pruned weights of an output, as long as its error falls.

    .. math::

        E_i = (w - w_0)^\top H\, (w - w_0), \qquad g = H (w_0 - w), \qquad
        \Delta_{pq} = 2 w_p g_p + w_p^2 H_{pp} - 2 x_q g'_q + x_q^2 H_{qq}, \qquad
        g' = g + w_p H_p

    In each round every output i prunes one weight p and gives another one, q, the value x, if that
    lowers its error, :math:`\Delta_{pq} < 0`. It takes p as the cheapest weight to prune and the
    best q for that p, or, in every second round, the best q to return and then the best p for it.
    In n:m patterns p and q are the best of all pairs in the same group. The search ends where no
    output finds an exchange. An exchange changes g by two rows of H, so a round costs less than a
    product of W and H.

    Args:
      start: the `Method` whose result the search starts from; by default `wanda`. The number of
        weights that each output keeps stays as it is.
      rounds: the largest number of rounds.
      refit_iterations: 0 to keep the original values of weights, :math:`x_q = w_{0,q}`. Otherwise
        the search starts from the values of ``start``, x minimises the error, and at most as many
        iterations of conjugate gradients at the end solve for the least-squares weights.
      damping: what H has on its diagonal more than the Gram matrix, as a fraction of it.

    Returns:
      A `Method` for `prune`, for all patterns but groups of weights (``"4x1"``, ``"inputs"``).

    Raises:
      TypeError: an argument is of the wrong type.
      ValueError: an argument is out of range.
    """
    start = wanda() if start is None else start
    if not isinstance(start, Method):
        raise TypeError(f"start must be a Method; got {start!r}")
    rounds = _checks.python_integer("rounds", rounds, 0)
    refit_iterations = _checks.python_integer("refit_iterations", refit_iterations, 0)
    _checks.scalar_at_least_zero("damping", damping)
    return Method("swaps", _prune, (refit_iterations,), (rounds, start, float(damping)))


class _State(NamedTuple):
    weights: Weights
    gradient: Weights
    """g, minus half the gradient of the error."""
    mask: Mask
    round: jax.Array
    idle: jax.Array
    """The number of rounds since the last exchange."""


class _Exchange(NamedTuple):
    """An exchange for each output."""

    change: Float[Array, " outputs"]
    """The change of the error."""
    pruned: jax.Array
    """The input whose weight is pruned."""
    returned: jax.Array
    """The input whose weight returns."""


def _prune(
    weights: Weights,
    gram: Gram,
    pattern: Pattern,
    count: jax.Array,
    refit_iterations: int,
    rounds: jax.Array,
    start: Method,
    damping: float,
) -> Pruned:
    if pattern.kind == "groups" and not pattern.drops_outputs:
        raise ValueError(
            "pattern must be 'row', 'layer', 'global', n:m or units for the method swaps, which "
            f"exchanges single weights; got {pattern.text!r}"
        )
    if pattern.drops_outputs:
        return prune_outputs(weights, gram, pattern, count)
    found, raised = start.prune(weights, gram, pattern, count)
    target = live_inputs(weights, gram)
    diagonal = jnp.diagonal(gram)
    diagonal = jnp.where(diagonal > 0, diagonal, 1)
    hessian = gram + damping * diagonal * jnp.eye(gram.shape[0], dtype=gram.dtype)
    mask = found != 0
    values = found if refit_iterations else jnp.where(mask, target, 0)
    search = _Search(target, hessian, bool(refit_iterations), pattern)
    found, mask = search.run(values, mask, rounds)
    if refit_iterations:
        found = refit(found, target, hessian, mask, refit_iterations)
    return found, raised


class _Search(NamedTuple):
    target: Weights
    hessian: Gram
    fits: bool
    """Whether a weight returns with the value that minimises the error."""
    pattern: Pattern

    def run(self, weights: Weights, mask: Mask, rounds: jax.Array) -> tuple[Weights, Mask]:
        gradient = matmul(self.target - weights, self.hessian)
        zero = jnp.zeros((), jnp.int32)
        state = _State(weights, gradient, mask, zero, zero)
        last: _State = lax.while_loop(
            lambda state: (state.round < rounds) & (state.idle < 2), self.exchange, state
        )
        return last.weights, last.mask

    def exchange(self, state: _State) -> _State:
        """Run one round."""
        if self.pattern.kind == "n_m":
            best = self.within_groups(state)
        else:
            prune_first = state.round % 2 == 0
            best = lax.cond(prune_first, self.prune_first, self.return_first, state)
        rows = jnp.arange(len(best.change), dtype=jnp.int32)
        # Below this the change is lost in rounding.
        scale = self.removal(state, state.weights)[rows, best.pruned]
        accepted = best.change < -1e-5 * jnp.abs(scale)
        removed = jnp.where(accepted, state.weights[rows, best.pruned], 0)
        gradient = state.gradient + removed[:, None] * self.hessian[best.pruned]
        value = self.value(gradient)[rows, best.returned]
        value = jnp.where(accepted, value, 0)
        gradient = gradient - value[:, None] * self.hessian[best.returned]
        weights = state.weights.at[rows, best.pruned].add(-removed)
        weights = weights.at[rows, best.returned].add(value)
        mask = state.mask.at[rows, best.pruned].min(~accepted)
        mask = mask.at[rows, best.returned].max(accepted)
        idle = jnp.where(accepted.any(), 0, state.idle + 1)
        return _State(weights, gradient, mask, state.round + 1, idle)

    def value(self, gradient: Weights) -> Weights:
        """Return the values that weights return with."""
        return gradient / jnp.diagonal(self.hessian) if self.fits else self.target

    def removal(self, state: _State, weights: Weights) -> Weights:
        """Return the change of the error if weights are pruned."""
        squared: jax.Array = jnp.square(weights) * jnp.diagonal(self.hessian)
        return squared + 2 * weights * state.gradient

    def addition(self, gradient: Weights) -> Weights:
        """Return the change of the error if weights return."""
        value = self.value(gradient)
        squared: jax.Array = jnp.square(value) * jnp.diagonal(self.hessian)
        return squared - 2 * value * gradient

    def prune_first(self, state: _State) -> _Exchange:
        rows = jnp.arange(len(state.weights), dtype=jnp.int32)
        removal = jnp.where(state.mask, self.removal(state, state.weights), jnp.inf)
        pruned = removal.argmin(1).astype(jnp.int32)
        removed = state.weights[rows, pruned]
        gradient = state.gradient + removed[:, None] * self.hessian[pruned]
        addition = jnp.where(state.mask, jnp.inf, self.addition(gradient))
        returned = addition.argmin(1).astype(jnp.int32)
        change = removal[rows, pruned] + addition[rows, returned]
        return _Exchange(change, pruned, returned)

    def return_first(self, state: _State) -> _Exchange:
        rows = jnp.arange(len(state.weights), dtype=jnp.int32)
        addition = jnp.where(state.mask, jnp.inf, self.addition(state.gradient))
        returned = addition.argmin(1).astype(jnp.int32)
        value = self.value(state.gradient)[rows, returned]
        after = state._replace(gradient=state.gradient - value[:, None] * self.hessian[returned])
        removal = jnp.where(state.mask, self.removal(after, state.weights), jnp.inf)
        pruned = removal.argmin(1).astype(jnp.int32)
        # The value is chosen anew after p is pruned, which can only lower the error.
        change = addition[rows, returned] + removal[rows, pruned]
        return _Exchange(change, pruned, returned)

    def within_groups(self, state: _State) -> _Exchange:
        """Return the best exchange within a group of m inputs, of all pairs in all groups."""
        m = self.pattern.numbers[1]
        outputs, inputs = state.weights.shape
        groups = inputs // m
        blocks = self.hessian.reshape(groups, m, groups, m)
        number = jnp.arange(groups, dtype=jnp.int32)
        blocks = blocks[number, :, number]  # [groups, m, m]

        def split(array: jax.Array) -> jax.Array:
            return array.reshape(outputs, groups, m)

        removal = jnp.where(state.mask, self.removal(state, state.weights), jnp.inf)
        weights = split(jnp.where(state.mask, state.weights, 0))
        # g'_q for each p and q of a group: [outputs, groups, p, q]
        gradient = split(state.gradient)[:, :, None] + weights[..., None] * blocks
        diagonal = jnp.diagonal(self.hessian).reshape(groups, 1, m)
        value = gradient / diagonal if self.fits else split(self.target)[:, :, None]
        addition = jnp.square(value) * diagonal - 2 * value * gradient
        addition = jnp.where(split(state.mask)[:, :, None], jnp.inf, addition)
        change = (split(removal)[..., None] + addition).reshape(outputs, -1)
        best = change.argmin(1).astype(jnp.int32)
        group, pair = best // (m * m), best % (m * m)
        rows = jnp.arange(outputs, dtype=jnp.int32)
        return _Exchange(change[rows, best], group * m + pair // m, group * m + pair % m)
