"""The C step for n:m sparsity."""

from __future__ import annotations

from jaxtyping import Array, ArrayLike, Integer, PyTree

from sparsejax._where import everything
from sparsejax.compression._base import Compression, with_count
from sparsejax.projections import project_n_m


def n_m(n: Integer[ArrayLike, ""], m: int, *, axis: int = -2) -> Compression:
    r"""C step with at most ``n`` non-zero weights in every group of ``m`` neighbours.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 \;\text{s.t. in every group}\;
              \|\theta_g\|_0\le n

    Args:
      n: integer scalar in ``[0, m]``; may be traced, and a traced value is clipped to that range.
      m: the number of neighbours in a group, an integer >= 1.
      axis: the dimension along which groups lie, as in `sparsejax.projections.project_n_m`.

    Returns:
      A `Compression`; its state is empty.

    Raises:
      TypeError: ``n`` is not a number; in ``init``: ``m`` is not an integer or a leaf is not
        floating point.
      ValueError: ``n`` is not an integer in ``[0, m]``; in ``init``: a leaf does not fit ``m`` and
        ``axis``, or the weights hold NaN.

    References:
      Mishra et al., Accelerating sparse deep neural networks, arXiv:2104.08378, 2021.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import n_m
      >>> weights = jnp.array([1.0, -4.0, 3.0, 2.0])
      >>> c_step = n_m(2, 4, axis=0)
      >>> theta, _ = c_step.project(weights, 1.0, c_step.init(weights))
      >>> theta
      Array([ 0., -4.,  3.,  0.], dtype=float32)
    """

    def nearest(weights: PyTree[Array], n: Integer[ArrayLike, ""]) -> PyTree[Array]:
        return project_n_m(weights, n, m, everything, axis=axis)

    return with_count("n", n, nearest, most=m)
