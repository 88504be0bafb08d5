"""Projection onto n:m sparsity: of every m neighbours along a dimension at most n stay."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from chex import Numeric

from sparsejax import _checks
from sparsejax._where import PyTree, Where, choose
from sparsejax.projections._keys import key_format


def project_n_m(tree: PyTree, n: Numeric, m: int, where: Where = None, *, axis: int = -2) -> PyTree:
    r"""The nearest tree with at most ``n`` non-zeros in every group of ``m`` neighbours.

    .. math:: \arg\min_\theta \tfrac12\|w-\theta\|_2^2 \quad \text{s.t.}\quad
              \|\theta_{mg},\dots,\theta_{mg+m-1}\|_0\le n \;\text{ for every group } g

    Of each group the ``n`` largest magnitudes are kept bit for bit, and of equal ones the earlier;
    the rest become +0. Exact in every floating-point dtype, as `project_l0_ball` is. Sparse tensor
    cores want 2:4 along the dimension that a product sums over: of a kernel [..., in, out] that is
    the second to last, the default.

    Args:
      tree: pytree of arrays; the chosen leaves are floating point.
      n: integer scalar, how many of a group may stay. A known value must be in ``[0, m]``, a traced
        one is clipped to that range.
      m: how many neighbours make a group, an integer >= 1.
      where: which leaves are projected; the others are returned as they are.
      axis: the dimension along which groups lie; its length is a multiple of ``m``.

    Returns:
      A tree like ``tree``. The gradient flows to the kept entries. Outside ``jit`` a NaN is an
      error; under ``jit`` every entry of its group is NaN.

    Raises:
      TypeError: ``n`` or ``m`` is not an integer, or a chosen leaf is not floating point.
      ValueError: ``n`` or ``m`` is out of range, a chosen leaf has no such ``axis`` or one of
        another length, a known leaf holds NaN, or ``where`` chooses nothing.

    References:
      Mishra et al., Accelerating sparse deep neural networks, arXiv:2104.08378, 2021.
    """
    if isinstance(m, bool) or not isinstance(m, int):
        raise TypeError(f"m must be an integer >= 1; got {m!r} ({type(m).__name__})")
    if m < 1:
        raise ValueError(f"m must be an integer >= 1; got {m}")
    n = _checks.scalar_count("n", n, m)
    chosen = choose(tree, where)
    for path, leaf in zip(chosen.paths, chosen.leaves, strict=True):
        if not -leaf.ndim <= axis < leaf.ndim or leaf.shape[axis] % m:
            raise ValueError(
                f"axis must be a dimension of every chosen leaf, of a length that is a multiple of "
                f"m = {m}; {path or 'the leaf'} has shape {leaf.shape}, axis is {axis}"
            )
    _checks.no_nan("tree", chosen.paths, chosen.leaves)
    return chosen.put_back([_project(leaf, n, m, axis % leaf.ndim) for leaf in chosen.leaves])


@functools.partial(jax.jit, static_argnums=(2, 3))
def _project(leaf: jax.Array, n: jax.Array, m: int, axis: int) -> jax.Array:
    shape = leaf.shape
    grouped = (*shape[:axis], shape[axis] // m, m, *shape[axis + 1 :])
    ranks = key_format([leaf])
    keys = ranks.keys(leaf).reshape(grouped)
    place = jax.lax.broadcasted_iota(jnp.int32, grouped, axis + 1)
    before = jnp.zeros(grouped, jnp.int32)  # how many of the group go before an entry
    for other in range(m):
        key = jax.lax.slice_in_dim(keys, other, other + 1, axis=axis + 1)
        before += ((key > keys) | ((key == keys) & (other < place))).astype(jnp.int32)
    unknown = (keys > ranks.infinity).any(axis=axis + 1, keepdims=True)
    values = leaf.reshape(grouped)
    kept = jnp.where(unknown, jnp.nan, jnp.where(before < n, values, 0))
    return kept.astype(leaf.dtype).reshape(shape)
