"""ADMM: a mask and the least-squares weights under it, found together."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular

from sparsejax import _checks
from sparsejax.oneshot._damping import damped, inverse_diagonal
from sparsejax.oneshot._least_squares import refit
from sparsejax.oneshot._method import Gram, Method, Pruned, Weights
from sparsejax.oneshot._patterns import Mask, Pattern
from sparsejax.oneshot._products import matmul
from sparsejax.oneshot._whole_inputs import prune_inputs
from sparsejax.oneshot._whole_outputs import live_inputs, prune_outputs

_STAGES = 3


def admm(
    iterations: int = 40,
    rho: tuple[float, float] = (0.3, 1.0),
    stages: int | None = None,
    refit_iterations: int = 10,
    damping: float = 0.001,
    metric_damping: float = 0.1,
) -> Method:
    r"""Find a mask and the least-squares weights under it together.

    .. math::

        \min_{W, Z}\ \mathrm{tr}\,(W - W_0)\, H\, (W - W_0)^\top
        \quad\text{s.t.}\quad W = Z,\ Z \text{ sparse}, \qquad
        H = G + \delta\, \mathrm{diag}(G)

    One iteration, in the metric D of the next paragraph, is

    .. math::

        W &\leftarrow (W_0 H + \rho (Z - U) D) (H + \rho D)^{-1} \\
        Z &\leftarrow \text{the entries of } W + U \text{ with the largest } D_{jj} (w + u)_{ij}^2
        \\
        U &\leftarrow U + W - Z

    :math:`D_{jj} = 1 / [(G + \tau\, \mathrm{diag}(G))^{-1}]_{jj}` is the price of a change of a
    weight after other weights have compensated for it. With :math:`\tau = 0` these would be all
    others, as in optimal brain surgery, and with a large one none. What can still compensate is
    somewhere between.

    The number of entries in Z falls along a cubic curve from all of them to the budget, so that the
    weights adapt while the mask is found. For pruned entries U is minus the gradient over
    :math:`\rho D`: entries that the error wants back more than others return. So :math:`\rho` rises
    in stages, from one that moves masks much to one at which they settle. At the end conjugate
    gradients solve for the least-squares weights under the mask.

    Nearly all of it is products of matrices, one for each iteration of both kinds.

    Whole inputs, such as heads, are pruned as in `sparsegpt`: one after another, which finds better
    ones.

    Args:
      iterations: the number of iterations of all stages together. Twice as many lower the error by
        about one per cent.
      rho: the penalties of the first and of the last stage; those between lie on a geometric curve.
        The error grows steeply where the last one is much below 1.
      stages: the number of penalties, at most ``iterations``; by default 3, or ``iterations`` if
        these are fewer. Each inverts one matrix of the size of the inputs.
      refit_iterations: the largest number of iterations of conjugate gradients; an output for which
        they have converged stays as it is.
      damping: :math:`\delta \ge 0`; for whole inputs in units of the mean of the diagonal.
      metric_damping: :math:`\tau > 0`.

    Returns:
      A `Method` for `prune`.

    Raises:
      TypeError: an argument is not a number.
      ValueError: an argument is out of range.

    References:
      Boyd, Parikh, Chu, Peleato and Eckstein, Distributed optimization and statistical learning via
      the alternating direction method of multipliers, 2011 (section 9.1). Boza, Fast and effective
      weight update for pruned large language models, TMLR 2024, has the gradual mask; Meng,
      Behdin, Wang and Mazumder, ALPS: improved optimization for highly sparse one-shot pruning for
      large language models, NeurIPS 2024, the rising penalty and the conjugate gradients.
    """
    iterations = _checks.python_integer("iterations", iterations, 1)
    if stages is None:
        stages = min(_STAGES, iterations)
    stages = _checks.python_integer("stages", stages, 1, iterations)
    refit_iterations = _checks.python_integer("refit_iterations", refit_iterations, 0)
    _checks.scalar_at_least_zero("damping", damping)
    _checks.scalar("metric_damping", metric_damping, "a number > 0", lambda x: x > 0)
    if not isinstance(rho, (tuple, list)) or len(rho) != 2:
        raise ValueError(f"rho must be two numbers > 0; got {rho!r}")
    first, last = rho
    for value in (first, last):
        _checks.scalar("rho", value, "two numbers > 0", lambda x: x > 0)
    penalties = tuple(float(p) for p in np.geomspace(first, last, stages))
    numbers = (penalties, float(damping), float(metric_damping))
    return Method("admm", _prune, (iterations, refit_iterations), numbers)


_Stage: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]
"""Its number, its penalty and that of the stage before."""


class _State(NamedTuple):
    weights: Weights
    """The minimiser of the quadratic part."""
    dual: Weights
    """The scaled dual variable U."""
    mask: Mask


def _prune(
    weights: Weights,
    gram: Gram,
    pattern: Pattern,
    count: jax.Array,
    iterations: int,
    refit_iterations: int,
    rho: tuple[float, ...],
    damping: float,
    metric_damping: float,
) -> Pruned:
    if pattern.drops_outputs:
        return prune_outputs(weights, gram, pattern, count)
    if pattern.drops_inputs:
        return prune_inputs(live_inputs(weights, gram), gram, pattern, count, damping)
    weights = live_inputs(weights, gram)
    diagonal = jnp.diagonal(gram)
    diagonal = jnp.where(diagonal > 0, diagonal, 1)
    identity = jnp.eye(gram.shape[0], dtype=gram.dtype)
    whole = damped(gram, diagonal, metric_damping)
    metric = 1 / inverse_diagonal(whole)
    gram = gram + damping * diagonal * identity
    scale = 1 / jnp.sqrt(metric)
    scaled = gram * scale * scale[:, None]
    total = pattern.counted(*weights.shape)
    target = weights / scale
    pull = matmul(target, scaled)

    def iterate(number: jax.Array, state: _State, inverse: Gram, penalty: jax.Array) -> _State:
        left = 1 - (number + 1).astype(gram.dtype) / iterations
        more = jnp.ceil((total - count).astype(gram.dtype) * left**3)
        kept = count + more.astype(count.dtype)
        point = state.weights + state.dual
        mask = pattern.largest(jnp.square(point), kept)
        masked = jnp.where(mask, point, 0)
        dual = point - masked
        return _State(matmul(pull + penalty * (masked - dual), inverse), dual, mask)

    stages = len(rho)

    def run_stage(state: _State, stage: _Stage) -> tuple[_State, None]:
        number, penalty, before = stage
        inverse = _inverse(scaled + penalty * identity)
        state = state._replace(dual=state.dual * (before / penalty))
        first, last = number * iterations // stages, (number + 1) * iterations // stages
        state = lax.fori_loop(
            first, last, lambda n, state: iterate(n, state, inverse, penalty), state
        )
        return state, None

    penalties = jnp.asarray(rho, gram.dtype)
    before = jnp.concatenate([penalties[:1], penalties[:-1]])
    start = _State(target, jnp.zeros_like(target), jnp.ones(target.shape, bool))
    state, _ = lax.scan(run_stage, start, (jnp.arange(stages, dtype=jnp.int32), penalties, before))
    found = jnp.where(state.mask, state.weights * scale, 0)
    return refit(found, weights, gram, state.mask, refit_iterations), whole.raised


def _inverse(matrix: Gram) -> Gram:
    """Return the inverse of a positive definite matrix."""
    identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    half = solve_triangular(jnp.linalg.cholesky(matrix), identity, lower=True)
    return matmul(half.T, half)
