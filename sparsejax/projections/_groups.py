"""Keeping whole groups of entries, ranked by norm over all leaves together."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
from chex import Numeric

from sparsejax import _checks
from sparsejax._where import Chosen, PyTree
from sparsejax.projections._count import add_up, count_reaching
from sparsejax.projections._keys import key_format
from sparsejax.projections._prefix import longest_prefix
from sparsejax.projections._shards import Layout, on_each_shard
from sparsejax.projections._squares import divided, ranked, squared_norms

_MOST_COST = 2**31 - 1  # what is spent is counted in int32


class Grouping(Protocol):
    """How a leaf falls into groups of entries that stay or go together; hashable."""

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the array of groups of a leaf of shape ``whole``."""

    def split(self, leaf: jax.Array, layout: Layout) -> tuple[jax.Array, tuple[int, ...]]:
        """The leaf as an array with groups along some dimensions, and the others, rising."""

    def layout(self, layout: Layout) -> tuple[Layout, frozenset[str]]:
        """The layout of the array of groups, and the mesh axes that cut groups themselves."""

    def spread(self, groups: jax.Array, leaf: jax.Array) -> jax.Array:
        """What belongs to each group, at each of its entries in ``leaf``."""


def keep_groups(
    name: str,
    budget: Numeric,
    chosen: Chosen,
    layouts: Sequence[Layout],
    grouping: Grouping,
    costs: Sequence[int],
) -> PyTree:
    """The tree with the groups that are greatest in squared norm per cost, and zeros elsewhere.

    Of the groups in this order (of equal ones the earlier first) the longest prefix is kept that
    costs at most ``budget``.

    Args:
      name: what the budget is called in errors.
      budget: integer scalar.
      chosen: the leaves, each with groups.
      layouts: of the leaves.
      grouping: what a group is.
      costs: what a group of each leaf costs, from 1.

    Raises:
      TypeError, ValueError: the budget is no integer from 0 to what all groups cost; that is 2**31
        or more; or a known leaf holds NaN.
    """
    total = sum(
        cost * math.prod(grouping.shape(layout.shape(leaf)))
        for cost, leaf, layout in zip(costs, chosen.leaves, layouts, strict=True)
    )
    if total > _MOST_COST:
        raise ValueError(
            f"all groups together may cost {_MOST_COST} at most; they cost {total}: give costs "
            "and budget in a larger unit, such as thousands"
        )
    budget = _checks.scalar_count(name, budget, total)
    if not chosen.size:
        return chosen.put_back(chosen.leaves)
    kept, any_nan = _keep(chosen.leaves, tuple(layouts), budget, grouping, tuple(costs))
    if not isinstance(any_nan, jax.core.Tracer) and any_nan:
        _checks.no_nan("tree", chosen.paths, chosen.leaves)
    return chosen.put_back(kept)


@functools.partial(jax.jit, static_argnames=("layouts", "grouping", "costs"))
def _keep(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    budget: jax.Array,
    grouping: Grouping,
    costs: Sequence[int],
) -> tuple[list[jax.Array], jax.Array]:
    """The kept entries, and whether any entry is NaN."""
    common = math.gcd(*costs)

    def keep(leaves, layouts, budget):
        ranks = key_format([*leaves, jnp.zeros((), jnp.float32)])
        outer, words, nans = [], [], []
        for leaf, layout, cost in zip(leaves, layouts, costs, strict=True):
            groups, names = grouping.layout(layout)
            norms = squared_norms(*grouping.split(leaf, layout), names, ranks)
            outer.append(groups)
            words.append(ranked(divided(norms, cost // common), ranks))
            nans.append(count_reaching(norms.largest, [ranks.infinity + 1]))
        any_nan = add_up(nans, outer)[0] > 0
        masks = longest_prefix(list(zip(*words, strict=True)), 1 << 24, outer, costs, budget)
        kept = []
        for leaf, mask in zip(leaves, masks, strict=True):
            values = jnp.where(grouping.spread(mask, leaf), leaf, 0)
            kept.append(jnp.where(any_nan, jnp.nan, values).astype(leaf.dtype))
        return kept, any_nan

    return on_each_shard(keep, leaves, layouts, budget)
