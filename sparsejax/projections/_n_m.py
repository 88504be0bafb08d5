"""Projection onto n:m sparsity: at most n non-zeros in every group of m neighbours."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Integer, PyTree

from sparsejax import _checks
from sparsejax._where import Where, choose
from sparsejax.projections._keep import keep
from sparsejax.projections._keys import key_format


def project_n_m(
    tree: PyTree[Array],
    n: Integer[ArrayLike, ""],
    m: int,
    where: Where = None,
    *,
    axis: int = -2,
) -> PyTree[Array]:
    r"""Project onto the trees with at most ``n`` non-zeros in every group of ``m`` neighbours.

    .. math:: \arg\min_\theta \tfrac12\|w-\theta\|_2^2 \quad \text{s.t.}\quad
              \|\theta_{mg},\dots,\theta_{mg+m-1}\|_0\le n \;\text{ for every group } g

    The ``n`` largest magnitudes of each group are kept bit for bit and all other entries become +0.
    Ties keep the earlier entry. The result is exact in every floating-point dtype, as that of
    `project_l0_ball`. Sparse tensor cores need 2:4 sparsity along the contracted dimension, which
    for a kernel [..., in, out] is the second to last, the default.

    Args:
      tree: pytree of arrays; the chosen leaves are floating point.
      n: integer scalar, the maximum number of non-zeros in a group. A concrete value must be in
        ``[0, m]``; a traced value is clipped to that range.
      m: the number of neighbours in a group, an integer >= 1.
      where: the leaves that are projected; all others are returned unchanged.
      axis: the dimension of every chosen leaf along which groups lie; its length must be a multiple
        of ``m``.

    Returns:
      A tree with the structure, shapes and dtypes of ``tree``. The gradient flows to the kept
      entries only. A NaN in a concrete tree is an error; under ``jit`` all entries of its group
      become NaN.

    Raises:
      TypeError: ``n`` or ``m`` is not an integer, or a chosen leaf is not floating point.
      ValueError: ``n`` or ``m`` is out of range, a chosen leaf does not have the dimension ``axis``
        or its length is not a multiple of ``m``, a concrete leaf holds NaN, or ``where`` chooses
        nothing.

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
                "axis must be a dimension of every chosen leaf whose length is a multiple of m; "
                f"got axis {axis} and m {m} for {path or 'the leaf'} of shape {leaf.shape}"
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
    before = jnp.zeros(grouped, jnp.int32)  # the rank of each entry in its group
    for other in range(m):
        key = jax.lax.slice_in_dim(keys, other, other + 1, axis=axis + 1)
        before += ((key > keys) | ((key == keys) & (other < place))).astype(jnp.int32)
    unknown = (keys > ranks.infinity).any(axis=axis + 1, keepdims=True)
    return keep(leaf.reshape(grouped), before < n, unknown).reshape(shape)
