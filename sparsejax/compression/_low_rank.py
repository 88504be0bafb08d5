"""The C step that leaves kernels of a given rank."""

from __future__ import annotations

import jax
from jaxtyping import Array, ArrayLike, Integer, PyTree

from sparsejax import _checks, _encoding
from sparsejax._matrices import Matrices
from sparsejax._where import everything
from sparsejax.compression._base import Compression, stateless
from sparsejax.projections import project_low_rank


def low_rank(
    rank: Integer[ArrayLike, ""], *, scheme: str = "channel", stacked: int = 0
) -> Compression:
    r"""Kernels of rank at most ``rank``, each by itself.

    .. math:: \min_\Theta \tfrac{\mu}{2} \|W - \Theta\|_F^2 \;\text{s.t.}\;
              \operatorname{rank}(\Theta) \le r

    `sparsejax.projections.low_rank_factors` splits a compressed kernel into two layers, and
    `sparsejax.compressed_forms` keeps the factors of a kernel where that takes fewer numbers.

    Args:
      rank: integer scalar >= 0; may be traced.
      scheme: how the kernel of a convolution is read as a matrix, ``"channel"`` or ``"spatial"``,
        as in `sparsejax.projections.project_low_rank`.
      stacked: how many leading dimensions of each kernel are stacked layers.

    Returns:
      A `Compression`.

    Raises:
      TypeError: ``rank`` is not an integer.
      ValueError: ``rank`` is negative; in ``init``: ``scheme`` is none of the two, a leaf is no
        kernel of 2 or 4 dimensions, or the weights hold NaN.

    References:
      Idelbayev and Carreira-Perpinan, Low-rank compression of neural nets: learning the rank of
      each layer, CVPR 2020.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import low_rank
      >>> weights = {"kernel": jnp.diag(jnp.array([3.0, 2.0, 1.0]))}
      >>> c_step = low_rank(2)
      >>> theta, _ = c_step.project(weights, 1.0, c_step.init(weights))
      >>> jnp.linalg.matrix_rank(theta["kernel"])
      Array(2, dtype=int32)
    """
    _checks.scalar_count("rank", rank)

    def nearest(weights: PyTree[Array]) -> PyTree[Array]:
        return project_low_rank(weights, rank, everything, scheme=scheme, stacked=stacked)

    def check(weights: PyTree[Array]) -> None:
        jax.eval_shape(nearest, weights)

    def encode(theta: PyTree[Array]) -> PyTree:
        matrices = Matrices(scheme, stacked)
        return jax.tree.map(lambda leaf: _encoding.low_rank(leaf, rank, matrices), theta)

    return stateless(lambda weights, mu: nearest(weights), check, encode)
