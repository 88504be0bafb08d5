"""SparseGPT: optimal brain surgery, column by column, with one factor for all rows."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from sparsejax import _checks
from sparsejax.oneshot._damping import damped
from sparsejax.oneshot._method import Gram, Method, Pruned, Weights
from sparsejax.oneshot._patterns import Mask, Pattern
from sparsejax.oneshot._products import matmul
from sparsejax.oneshot._whole_inputs import prune_inputs
from sparsejax.oneshot._whole_outputs import live_inputs, prune_outputs


def sparsegpt(damping: float = 0.01, block_size: int = 128) -> Method:
    r"""Prune columns in order, and let the later ones compensate for each pruned weight.

    .. math:: H = \tfrac1n X^\top X + \delta\, \overline{\mathrm{diag}} I, \qquad
              H^{-1} = U^\top U, \qquad s_{ij} = \frac{w_{ij}^2}{U_{jj}^2}, \qquad
              w_{i,k} \leftarrow w_{i,k} - \frac{w_{ij}}{U_{jj}} U_{jk} \quad (k \ge j)

    U is upper triangular, so that row j of it holds the update of optimal brain surgery in a
    problem from which the columns before j are gone. The mask of a block of columns is chosen when
    the block begins, by the scores of its current weights; each block keeps its share of the
    budget. That of an n:m pattern is chosen for m columns at a time. Weights of inputs that are
    always 0 become 0.

    Whole inputs, such as heads, are too few for shares of blocks. Of them the group g of columns
    whose loss costs least is pruned, the others compensate for it, and so on:

    .. math:: s_g = \mathrm{tr}\, W_g\, ([H^{-1}]_{gg})^{-1}\, W_g^\top

    The weights that are left are then the least-squares ones.

    Args:
      damping: :math:`\delta \ge 0`, in units of the mean of the diagonal. It is raised, with a
        warning, where the matrix would be singular in floating point.
      block_size: the number of columns of a block; rounded up to a multiple of the inputs of a
        group of the pattern.

    Returns:
      A `Method` for `prune`.

    Raises:
      TypeError: an argument is not a number.
      ValueError: an argument is out of range.

    References:
      Frantar and Alistarh, SparseGPT: massive language models can be accurately pruned in
      one-shot, ICML 2023. Hassibi and Stork, Second order derivatives for network pruning: optimal
      brain surgeon, NeurIPS 1992. Kurtic, Frantar and Alistarh, ZipLM: inference-aware structured
      pruning of language models, NeurIPS 2023 (whole inputs).
    """
    _checks.scalar_at_least_zero("damping", damping)
    block_size = _checks.python_integer("block_size", block_size, 1)
    return Method("sparsegpt", _prune, (block_size,), (float(damping),))


_Columns: TypeAlias = tuple[Weights, Weights, Mask]
"""The columns of a block, the errors that later blocks compensate for, and the mask."""


class _Sweep(NamedTuple):
    """The values that are carried from block to block."""

    weights: Weights
    done: jax.Array
    """The number of items that earlier blocks keep, of those that are counted."""


def _prune(
    weights: Weights,
    gram: Gram,
    pattern: Pattern,
    count: jax.Array,
    block_size: int,
    damping: float,
) -> Pruned:
    if pattern.drops_outputs:
        return prune_outputs(weights, gram, pattern, count)
    if pattern.drops_inputs:
        return prune_inputs(live_inputs(weights, gram), gram, pattern, count, damping)
    outputs, inputs = weights.shape
    width = pattern.width(inputs)
    block = -(-min(block_size, inputs) // width) * width
    blocks = -(-inputs // block)
    missing = blocks * block - inputs
    upper, amount = inverse_factor(gram, damping)
    # Columns of zeros fill the last block; they change no other.
    upper = jnp.pad(upper, ((0, missing), (0, missing)))
    upper = upper + jnp.diag((jnp.arange(blocks * block) >= inputs).astype(upper.dtype))
    weights = jnp.pad(live_inputs(weights, gram), ((0, 0), (0, missing)))

    def prune_block(sweep: _Sweep, number: jax.Array) -> tuple[_Sweep, Weights]:
        start = number * block
        rows = lax.dynamic_slice_in_dim(upper, start, block)
        own = lax.dynamic_slice_in_dim(rows, start, block, axis=1)
        panel = lax.dynamic_slice_in_dim(sweep.weights, start, block, axis=1)
        until = _share(count, jnp.minimum(start + block, inputs), inputs)
        kept = count if pattern.kind == "n_m" else until - sweep.done
        pruned, errors = _prune_columns(panel, own, pattern, kept)
        return _Sweep(sweep.weights - matmul(errors, rows), until), pruned

    start = _Sweep(weights, jnp.zeros((), count.dtype))
    _, panels = lax.scan(prune_block, start, jnp.arange(blocks, dtype=jnp.int32))
    return jnp.moveaxis(panels, 0, 1).reshape(outputs, -1)[:, :inputs], amount


def _prune_columns(
    panel: Weights, upper: Float[Array, "block block"], pattern: Pattern, count: jax.Array
) -> tuple[Weights, Weights]:
    """Return the pruned columns of a block, and the errors that later blocks compensate for."""
    block = panel.shape[1]
    diagonal = jnp.diagonal(upper)

    def choose(columns: Weights, start: jax.Array, width: int) -> Mask:
        part = lax.dynamic_slice_in_dim(columns, start, width, axis=1)
        errors = part / lax.dynamic_slice_in_dim(diagonal, start, width)
        return pattern.largest(jnp.square(errors), count)

    def prune_column(column: jax.Array, state: _Columns) -> _Columns:
        columns, errors, mask = state
        keep = mask[:, column]
        error = jnp.where(keep, 0, columns[:, column]) / diagonal[column]
        columns = columns - error[:, None] * upper[column]
        return columns, errors.at[:, column].set(error), mask

    zeros = jnp.zeros_like(panel)
    if pattern.kind != "n_m":
        mask = choose(panel, jnp.zeros((), jnp.int32), block)
        columns, errors, _ = lax.fori_loop(0, block, prune_column, (panel, zeros, mask))
        return jnp.where(mask, columns, 0), errors
    m = pattern.numbers[1]

    def prune_group(group: jax.Array, state: _Columns) -> _Columns:
        columns, errors, mask = state
        chosen = choose(columns, group * m, m)
        mask = lax.dynamic_update_slice_in_dim(mask, chosen, group * m, axis=1)
        state = (columns, errors, mask)
        return cast(_Columns, lax.fori_loop(group * m, (group + 1) * m, prune_column, state))

    start = (panel, zeros, jnp.zeros(panel.shape, bool))
    columns, errors, mask = lax.fori_loop(0, block // m, prune_group, start)
    return jnp.where(mask, columns, 0), errors


def inverse_factor(gram: Gram, damping: float) -> tuple[Gram, jax.Array]:
    """Return the upper triangular U of the damped H^-1 = U' U, and the raised damping or 0.

    H = R R' with an upper triangular R gives U = R^-1 without the inverse of H; R is the Cholesky
    factor of H with both axes reversed.
    """
    mean = jnp.mean(jnp.diagonal(gram))
    reverse = damped(gram[::-1, ::-1], jnp.where(mean > 0, mean, 1), damping)
    factor = reverse.factor[::-1, ::-1]
    identity = jnp.eye(gram.shape[0], dtype=gram.dtype)
    return solve_triangular(factor, identity, lower=False), reverse.raised


def _share(count: jax.Array, columns: jax.Array, inputs: int) -> jax.Array:
    """Return ``count * columns // inputs`` without an overflow."""
    whole, rest = count // inputs, count % inputs
    return whole * columns + rest * columns // inputs
