"""The nearest matrix of a given rank, for dense kernels and convolutions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, Integer

from sparsejax import _checks
from sparsejax._matrices import Matrices, factors, truncated
from sparsejax._where import PyTree, Where, choose


def project_low_rank(
    tree: PyTree,
    rank: Integer[ArrayLike, ""],
    where: Where = None,
    *,
    scheme: str = "channel",
    stacked: int = 0,
) -> PyTree:
    r"""Replace each chosen kernel by the nearest matrix of rank at most ``rank``.

    .. math:: \arg\min_\Theta \|W - \Theta\|_F^2 \quad\text{s.t.}\quad
              \operatorname{rank}(\Theta) \le r, \qquad \Theta = \sum_{i \le r} s_i u_i v_i^T

    This is the truncated singular value decomposition (Eckart and Young). A kernel that has no
    higher rank, since r >= min(m, n), is returned bit for bit.

    A dense kernel [in, out] is its own matrix. A convolution's [h, w, in, out] is read as a matrix
    by one of two schemes: ``"channel"`` as [h w in, out], two layers of which the second has a
    window of one pixel; ``"spatial"`` as [w in, h out], a horizontal and a vertical convolution.

    Args:
      tree: pytree of arrays; the chosen leaves are kernels, floating point, of 2 or 4 dimensions
        after the stacked ones.
      rank: integer scalar >= 0, for each kernel; may be traced.
      where: which leaves are projected, each by itself, see `sparsejax`; the others are returned
        as they are.
      scheme: ``"channel"`` or ``"spatial"``, how the kernel of a convolution is read.
      stacked: how many leading dimensions are stacked layers, each a kernel of its own.

    Returns:
      A tree like ``tree``. Under ``jit`` a kernel that holds NaN or infinity is all NaN.

    Raises:
      TypeError: ``rank`` is not an integer, or a chosen leaf is not floating point.
      ValueError: ``rank`` is negative, ``scheme`` is none of the two, a chosen leaf is no kernel of
        2 or 4 dimensions, ``where`` chooses nothing, or a concrete leaf holds NaN or infinity.

    References:
      Eckart and Young, The approximation of one matrix by another of lower rank, Psychometrika
      1936. Idelbayev and Carreira-Perpinan, Low-rank compression of neural nets: learning the rank
      of each layer, CVPR 2020.
    """
    rank = _checks.scalar_count("rank", rank)
    chosen = choose(tree, where)
    _checks.finite("tree", chosen.paths, chosen.leaves)
    matrices = Matrices(scheme, stacked)
    for path, leaf in zip(chosen.paths, chosen.leaves, strict=True):
        matrices.check(path, leaf)
    return chosen.put_back([truncated(leaf, rank, matrices) for leaf in chosen.leaves])


def low_rank_factors(
    kernel: jax.Array, rank: int, *, scheme: str = "channel"
) -> tuple[jax.Array, jax.Array]:
    r"""Split a kernel into the two factors of its nearest matrix of a given rank.

    .. math:: \Theta = A B, \qquad A = U \sqrt{S}, \quad B = \sqrt{S}\, V^T

    Two layers with these kernels, without a nonlinearity between them, compute what the kernel of
    that rank computes, with r (m + n) instead of m n parameters.

    Args:
      kernel: array [in, out] or [h, w, in, out], floating point.
      rank: how many columns A has, a Python integer from 1 to min(m, n).
      scheme: how the kernel of a convolution is read, as in `project_low_rank`.

    Returns:
      Two kernels. Dense: [in, r] and [r, out]. ``"channel"``: [h, w, in, r] and [1, 1, r, out].
      ``"spatial"``: [1, w, in, r] and [h, 1, r, out].

    Raises:
      TypeError: ``rank`` is not an integer.
      ValueError: ``rank`` is out of range, ``scheme`` is none of the two, or the kernel has not 2
        or 4 dimensions, or is concrete and holds NaN or infinity.
    """
    matrices = Matrices(scheme)
    matrices.check("kernel", kernel)
    _checks.finite("kernel", [""], [jnp.asarray(kernel)])
    rows, columns = matrices.shape(kernel)
    _checks.scalar_count("rank", rank, min(rows, columns))
    if rank < 1:
        raise ValueError(f"rank must be an integer from 1 to {min(rows, columns)}; got {rank}")
    left, right = factors(kernel, rank, matrices)
    return matrices.kernels(left, right, kernel.shape)
