"""The C step that ends in few non-zero blocks."""

from __future__ import annotations

from chex import Numeric

from sparsejax._where import PyTree, everything
from sparsejax.compression._base import Compression, with_count
from sparsejax.projections import project_blocks


def blocks(kappa: Numeric, block: tuple[int, int], *, specs: PyTree = None) -> Compression:
    r"""At most ``kappa`` non-zero blocks of ``block`` rows and columns, over all leaves together.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 \;\text{s.t.}\;
              \sum_g [\,\theta_g\ne 0\,]\le\kappa

    Args:
      kappa: integer scalar from 0 to the number of blocks; may be traced (then it is clipped to
        that range).
      block: rows and columns of a block, as in `sparsejax.projections.project_blocks`.
      specs: inside ``jax.shard_map`` or ``jax.pmap``, as in `l0_ball`.

    Raises:
      TypeError, ValueError: ``kappa`` is no integer >= 0; in ``init``: it is more than there are
        blocks, ``block`` or ``specs`` does not fit the weights, or they hold NaN.
    """

    def nearest(weights, kappa):
        return project_blocks(weights, kappa, block, everything, specs=specs)

    return with_count("kappa", kappa, nearest)
