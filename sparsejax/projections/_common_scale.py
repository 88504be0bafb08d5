"""Projections whose values share one scale, chosen over all leaves together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from sparsejax._dtypes import at_least_float32
from sparsejax.projections._shards import Layout, on_each_shard

FindScale = Callable[[Sequence[jax.Array], Sequence[Layout], jnp.dtype], jax.Array]


@functools.partial(jax.jit, static_argnames=("layouts", "find_scale", "nearest"))
def project_scaled(
    leaves: Sequence[jax.Array],
    layouts: tuple[Layout, ...],
    find_scale: FindScale | None,
    nearest: Callable[[jax.Array, jax.Array], jax.Array],
) -> list[jax.Array]:
    """Apply ``nearest(leaf, scale)`` to each leaf.

    Args:
      leaves: what is projected.
      layouts: how each leaf is cut.
      find_scale: ``(leaves, layouts, dtype) -> scale``; None for a scale of 1.
      nearest: elementwise in its first argument.

    Returns:
      The projected leaves.
    """
    dtype = at_least_float32(*leaves)

    def project(
        leaves: Sequence[jax.Array], layouts: Sequence[Layout]
    ) -> tuple[list[jax.Array], jax.Array]:
        scale = find_scale(leaves, layouts, dtype) if find_scale else jnp.ones((), dtype)
        return [nearest(leaf, scale) for leaf in leaves], scale

    return on_each_shard(project, leaves, layouts)[0]
