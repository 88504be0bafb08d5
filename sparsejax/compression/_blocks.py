"""The C step with a budget for the number of non-zero blocks."""

from __future__ import annotations

from jax.sharding import PartitionSpec
from jaxtyping import Array, ArrayLike, Integer, PyTree

from sparsejax._where import everything
from sparsejax.compression._base import Compression, with_count
from sparsejax.projections import project_blocks


def blocks(
    kappa: Integer[ArrayLike, ""],
    block: tuple[int, int],
    *,
    specs: PyTree[PartitionSpec] | None = None,
) -> Compression:
    r"""C step with at most ``kappa`` non-zero blocks over all leaves together.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 \;\text{s.t.}\;
              \sum_g [\,\theta_g\ne 0\,]\le\kappa

    Args:
      kappa: integer scalar from 0 to the number of blocks; may be traced, and a traced value is
        clipped to that range.
      block: the number of rows and columns of a block, as in
        `sparsejax.projections.project_blocks`.
      specs: the sharding of the leaves inside ``jax.shard_map`` or ``jax.pmap``, as in `l0_ball`.

    Returns:
      A `Compression`; its state is empty.

    Raises:
      TypeError: ``kappa`` is not a number; in ``init``: a leaf is not floating point or ``block``
        does not hold integers.
      ValueError: ``kappa`` is not an integer >= 0; in ``init``: it exceeds the number of blocks,
        ``block`` or ``specs`` does not fit the weights, or the weights hold NaN.

    References:
      Narang, Undersander and Diamos, Block-sparse recurrent neural networks, arXiv:1711.02782,
      2017.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import blocks
      >>> weights = jnp.array([[1.0, 2.0, 3.0, 4.0]])
      >>> c_step = blocks(kappa=1, block=(1, 2))
      >>> theta, _ = c_step.project(weights, 1.0, c_step.init(weights))
      >>> theta
      Array([[0., 0., 3., 4.]], dtype=float32)
    """

    def nearest(weights: PyTree[Array], kappa: Integer[ArrayLike, ""]) -> PyTree[Array]:
        return project_blocks(weights, kappa, block, everything, specs=specs)

    return with_count("kappa", kappa, nearest)
