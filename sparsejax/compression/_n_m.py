"""The C step that ends in n:m sparsity."""

from __future__ import annotations

from chex import Numeric

from sparsejax._where import everything
from sparsejax.compression._base import Compression, with_count
from sparsejax.projections import project_n_m


def n_m(n: Numeric, m: int, *, axis: int = -2) -> Compression:
    r"""At most ``n`` non-zero weights in every group of ``m`` neighbours along a dimension.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 \;\text{s.t. in every group}\;
              \|\theta_g\|_0\le n

    Args:
      n: integer scalar in ``[0, m]``; may be traced (then it is clipped to that range).
      m: how many neighbours make a group, an integer >= 1.
      axis: the dimension along which groups lie, as in `sparsejax.projections.project_n_m`.

    Raises:
      TypeError, ValueError: ``n`` or ``m`` is no integer or out of range; in ``init``: a leaf does
        not fit ``m`` and ``axis``, or the weights hold NaN.
    """

    def nearest(weights, n):
        return project_n_m(weights, n, m, everything, axis=axis)

    return with_count("n", n, nearest, most=m)
