"""Projections whose values share one scale, chosen over all leaves together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax._where import PyTree, Where, choose
from sparsejax._words import check_sizes
from sparsejax.projections._shards import Layout, layouts_of, on_each_shard, whole_sizes

FindScale = Callable[[Sequence[jax.Array], Sequence[Layout], jnp.dtype], jax.Array]


Nearest = Callable[[jax.Array, jax.Array], jax.Array]


def project_scaled(
    tree: PyTree, where: Where, specs: PyTree, find_scale: FindScale | None, nearest: Nearest
) -> PyTree:
    """Apply ``nearest(leaf, scale)`` to each chosen leaf.

    Args:
      tree: pytree of arrays.
      where: which leaves are projected.
      specs: what the leaves are pieces of, or None.
      find_scale: ``(leaves, layouts, dtype) -> scale``; None for a scale of 1.
      nearest: elementwise in its first argument.

    Raises:
      ValueError: a scale is to be found, and a concrete leaf holds NaN or infinity or a leaf has
        2**31 entries or more.
    """
    chosen = choose(tree, where)
    if find_scale:
        _checks.finite("tree", chosen.paths, chosen.leaves)
    layouts = tuple(layouts_of(tree, chosen, specs))
    if find_scale:
        check_sizes(chosen.paths, whole_sizes(chosen.leaves, layouts))
    return chosen.put_back(_projected(chosen.leaves, layouts, find_scale, nearest))


@functools.partial(jax.jit, static_argnames=("layouts", "find_scale", "nearest"))
def _projected(
    leaves: Sequence[jax.Array],
    layouts: tuple[Layout, ...],
    find_scale: FindScale | None,
    nearest: Nearest,
) -> list[jax.Array]:
    dtype = at_least_float32(*leaves)

    def project(
        leaves: Sequence[jax.Array], layouts: Sequence[Layout]
    ) -> tuple[list[jax.Array], jax.Array]:
        scale = find_scale(leaves, layouts, dtype) if find_scale else jnp.ones((), dtype)
        return [nearest(leaf, scale) for leaf in leaves], scale

    return on_each_shard(project, leaves, layouts)[0]
