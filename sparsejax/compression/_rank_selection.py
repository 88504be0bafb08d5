"""The C step that chooses the rank of each kernel."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree, Real

from sparsejax import _checks, _encoding
from sparsejax._dtypes import at_least_float32
from sparsejax._matrices import Matrices, truncated_to
from sparsejax.compression._base import Compression, check_weights

COSTS = ("storage", "flops")


class RankSelectionState(NamedTuple):
    """State of `rank_selection`."""

    ranks: PyTree
    """int32: the rank of each kernel after the last C step, of its own number of dimensions where
    layers are stacked."""


def rank_selection(
    alpha: Real[ArrayLike, ""],
    *,
    cost: str = "storage",
    output_positions: PyTree = None,
    normalize: bool = False,
    scheme: str = "channel",
    stacked: int = 0,
) -> Compression:
    r"""Kernels of low rank, whose ranks are chosen against a penalty on their cost.

    .. math:: \min_r \frac{\mu}{2 \nu} \sum_{i > r} s_i^2 + \alpha\, p\, r (m + n)

    for a kernel of m rows, n columns and singular values s. Here p is 1 for ``cost="storage"``, and
    the number of output positions of the layer for ``cost="flops"``; nu is 1, or with ``normalize``
    the squared norm of the kernel. The best rank is the number of singular values with

    .. math:: s_i^2 > 2 \alpha p (m + n) \nu / \mu

    (a tie goes to the lower rank). The penalty is that of the factored kernel at every rank, so a
    rank above m n / (m + n) costs more than the kernel itself: `sparsejax.compressed_forms` keeps
    such a kernel whole.

    Args:
      alpha: scalar >= 0; may be traced.
      cost: ``"storage"`` or ``"flops"``.
      output_positions: for ``cost="flops"``: a pytree of numbers, a prefix of the weights; how
        often the layer of a kernel is applied to an example (1 for a dense layer, height times
        width of the output for a convolution).
      normalize: measure the error of each kernel as a share of its squared norm.
      scheme: how the kernel of a convolution is read as a matrix, as in `low_rank`.
      stacked: how many leading dimensions of each kernel are stacked layers.

    Returns:
      A `Compression`, whose state holds the ranks.

    Raises:
      TypeError: ``alpha`` is not a number.
      ValueError: ``alpha`` is negative, ``cost`` is none of the two, ``output_positions`` is
        missing for flops or given for storage; in ``init``: a leaf is no kernel,
        ``output_positions`` is no prefix of the weights, or the weights hold NaN.

    References:
      Idelbayev and Carreira-Perpinan, Low-rank compression of neural nets: learning the rank of
      each layer, CVPR 2020.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import rank_selection
      >>> weights = {"kernel": jnp.diag(jnp.array([3.0, 2.0, 1.0]))}
      >>> c_step = rank_selection(alpha=0.2)  # singular values above sqrt(2 * 0.2 * 6) stay
      >>> theta, state = c_step.project(weights, 1.0, c_step.init(weights))
      >>> state.ranks
      {'kernel': Array(2, dtype=int32)}
    """
    alpha = _checks.scalar_at_least_zero("alpha", alpha)
    matrices = Matrices(scheme, stacked)
    if cost not in COSTS:
        raise ValueError(f"cost must be one of {COSTS}; got {cost!r}")
    if (cost == "flops") != (output_positions is not None):
        raise ValueError(
            "output_positions must be given for cost='flops', and for that alone; got "
            f"cost={cost!r}, output_positions={output_positions!r}"
        )

    def positions(weights: PyTree[Array]) -> PyTree[float]:
        if output_positions is None:
            return jax.tree.map(lambda w: 1.0, weights)
        return jax.tree.broadcast(output_positions, weights)

    def selected(weight: jax.Array, times: float, mu: jax.Array) -> tuple[jax.Array, jax.Array]:
        wide = at_least_float32(weight)
        rows, columns = matrices.shape(weight)
        price = 2 * alpha.astype(wide) * jnp.asarray(times, wide) * (rows + columns)

        def rank_of(s: jax.Array) -> jax.Array:
            scale = (s**2).sum(-1, keepdims=True) if normalize else jnp.ones((), wide)
            return (s**2 > price * scale / mu.astype(wide)).sum(-1, dtype=jnp.int32)

        return truncated_to(weight, rank_of, matrices)

    def init(weights: PyTree[Array]) -> RankSelectionState:
        chosen = check_weights(weights)
        for path, leaf in zip(chosen.paths, chosen.leaves, strict=True):
            matrices.check(path, leaf)
        positions(weights)
        zero = lambda w: jnp.zeros(w.shape[:stacked], jnp.int32)  # noqa: E731
        return RankSelectionState(jax.tree.map(zero, weights))

    def project(
        weights: PyTree[Array], mu: Float[ArrayLike, ""], state: RankSelectionState
    ) -> tuple[PyTree[Array], RankSelectionState]:
        del state  # ranks are chosen anew
        penalty = jnp.asarray(mu)
        pairs = jax.tree.map(lambda w, p: selected(w, p, penalty), weights, positions(weights))
        outer, inner = jax.tree.structure(weights), jax.tree.structure((0, 0))
        theta, ranks = jax.tree.transpose(outer, inner, pairs)
        return theta, RankSelectionState(ranks)

    def encode(theta: PyTree[Array], state: RankSelectionState) -> PyTree:
        ranks = iter(jax.tree.leaves(state.ranks))
        return jax.tree.map(lambda leaf: _encoding.low_rank(leaf, next(ranks), matrices), theta)

    return Compression(init, project, encode)
