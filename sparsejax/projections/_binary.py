"""The nearest tree with two values of opposite sign."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sparsejax._where import PyTree, Where
from sparsejax.projections._common_scale import project_scaled
from sparsejax.projections._shards import Layout
from sparsejax.projections._sums import sums


def project_binary(
    tree: PyTree, where: Where = None, *, scaled: bool = False, specs: PyTree = None
) -> PyTree:
    r"""Replace each entry of the chosen leaves by -a or a, whichever is nearer.

    .. math:: \theta_i = a \operatorname{sign}(w_i), \qquad a = 1 \text{ or, if scaled, }
              a = \tfrac1n \sum_i |w_i|

    The scale a is that of all chosen leaves together; it minimises the squared error. The sign of
    zero, of either kind, is positive.

    Args:
      tree: pytree of arrays; the chosen leaves are floating point, of any shape.
      where: which leaves are projected together, see `sparsejax`; the others are returned as they
        are.
      scaled: choose a, or keep it at 1.
      specs: inside ``shard_map`` or ``pmap``: what the leaves are pieces of, as in
        `sparsejax.projections.project_l0_ball`.

    Returns:
      A tree like ``tree``. NaN stays NaN. If scaled, a NaN or an infinity under ``jit`` makes every
      chosen entry NaN.

    Raises:
      TypeError: a chosen leaf is not floating point.
      ValueError: ``where`` chooses nothing, ``specs`` does not fit the tree or the mesh, or, if
        scaled, a concrete leaf holds NaN or infinity or a chosen leaf has 2**31 entries or more.

    References:
      Rastegari, Ordonez, Redmon and Farhadi, XNOR-Net: ImageNet classification using binary
      convolutional neural networks, ECCV 2016. Carreira-Perpinan and Idelbayev, Model compression
      as constrained optimization, with application to neural nets. Part II: quantization, 2017.
    """
    return project_scaled(tree, where, specs, _mean_magnitude if scaled else None, _signed)


def _mean_magnitude(
    leaves: Sequence[jax.Array], layouts: Sequence[Layout], dtype: jnp.dtype
) -> jax.Array:
    def terms(leaf: jax.Array) -> list[jax.Array]:
        return [jnp.abs(leaf.astype(dtype)), jnp.ones_like(leaf, dtype=dtype)]

    total, count = sums(leaves, layouts, terms)
    return total / jnp.maximum(count, 1)


def _signed(leaf: jax.Array, scale: jax.Array) -> jax.Array:
    value = jnp.where(jnp.isfinite(scale), scale, jnp.nan).astype(leaf.dtype)
    return jnp.where(jnp.isnan(leaf), leaf, jnp.where(leaf >= 0, value, -value))
