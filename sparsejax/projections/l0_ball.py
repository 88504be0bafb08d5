"""Projection onto the l0 ball: keep the kappa largest magnitudes of a whole pytree."""

from __future__ import annotations

import jax.numpy as jnp
from chex import Numeric

from sparsejax import _checks
from sparsejax._where import PyTree, Where, choose
from sparsejax.projections._selection import largest_masks

_MOST_ENTRIES = 2**31 - 1  # counts are int32


def project_l0_ball(tree: PyTree, kappa: Numeric, where: Where = None) -> PyTree:
    r"""The nearest tree with at most ``kappa`` non-zeros over all chosen leaves together.

    .. math:: \arg\min_\theta \tfrac12\|w-\theta\|_2^2 \quad \text{s.t.}\quad \|\theta\|_0\le\kappa

    The ``kappa`` largest magnitudes are kept bit for bit and the rest become +0. The result is
    exact in every floating-point dtype: magnitudes are compared by bit pattern, so subnormals are
    told apart even where the hardware flushes them, -0 ranks with +0, and infinities rank above
    every finite value. Leaves of different dtypes are ranked together by value. Of equal
    magnitudes the earlier one in ``jax.tree`` order (then row-major order) is kept.

    The cost is a few counting passes over the weights: nothing is sorted, concatenated or sent to
    the host. Works under ``jit``, ``vmap`` (a kappa for each tree) and ``grad`` (the gradient
    flows to the kept entries and is zero elsewhere; none flows to ``kappa``).

    Args:
      tree: pytree of arrays; the chosen leaves are floating point, of any shape.
      kappa: integer scalar, how many entries may stay. A known value must be in ``[0, n]``, ``n``
        being the number of chosen entries; a traced one is clipped to that range.
      where: which leaves are projected together (see the package's documentation of ``where``);
        the others are returned as they are.

    Returns:
      A tree like ``tree``. If a chosen entry is NaN there is no nearest tree: outside ``jit`` that
      is an error; under ``jit``, where nothing can raise, every chosen entry of the result is NaN.

    Raises:
      TypeError: ``kappa`` is not an integer, or a chosen leaf is not floating point.
      ValueError: ``kappa`` is out of range or fractional, a known leaf holds NaN, ``where``
        chooses nothing, or the chosen leaves have 2**31 entries or more.

    References:
      Carreira-Perpinan and Idelbayev, "Learning-compression" algorithms for neural net pruning,
      CVPR 2018.
    """
    chosen = choose(tree, where)
    if chosen.size > _MOST_ENTRIES:
        raise ValueError(f"tree has {chosen.size} chosen entries; at most {_MOST_ENTRIES} allowed")
    kappa = _checks.scalar_count("kappa", kappa, chosen.size)
    _checks.no_nan("tree", chosen.paths, chosen.leaves)
    if not chosen.size:
        return tree
    masks, any_nan = largest_masks(chosen.leaves, kappa)
    projected = [
        jnp.where(any_nan, jnp.nan, jnp.where(mask, leaf, 0)).astype(leaf.dtype)
        for leaf, mask in zip(chosen.leaves, masks, strict=True)
    ]
    return chosen.put_back(projected)
