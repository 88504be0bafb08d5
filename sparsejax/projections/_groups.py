"""Selection of whole groups of entries, ranked by norm over all leaves together."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Integer, PyTree

from sparsejax import _checks
from sparsejax._where import Chosen
from sparsejax.projections._count import add_up, count_reaching
from sparsejax.projections._keep import keep
from sparsejax.projections._keys import key_format
from sparsejax.projections._prefix import longest_prefix
from sparsejax.projections._shards import Layout, on_each_shard
from sparsejax.projections._squares import divided, ranked, squared_norms

_MOST_COST = 2**31 - 1  # costs are summed in int32


class Grouping(Protocol):
    """A hashable partition of a leaf's entries into groups that are kept or zeroed together."""

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the array of groups for a leaf of shape ``whole``."""

    def split(self, leaf: jax.Array, layout: Layout) -> tuple[jax.Array, tuple[int, ...]]:
        """Return the leaf, reshaped, and its dimensions inside a group, in increasing order."""

    def layout(self, layout: Layout) -> tuple[Layout, frozenset[str]]:
        """Return the layout of the array of groups and the mesh axes that shard single groups."""

    def broadcast(self, groups: jax.Array, leaf: jax.Array) -> jax.Array:
        """Broadcast one value per group to the entries of ``leaf``."""


def keep_groups(
    name: str,
    budget: Integer[ArrayLike, ""],
    chosen: Chosen,
    layouts: Sequence[Layout],
    grouping: Grouping,
    costs: Sequence[int],
) -> PyTree[Array]:
    """Keep the groups with the largest squared norms per cost within a budget; zero all others.

    Groups are ordered by squared norm per cost, ties by position, and the longest prefix of that
    order that costs at most ``budget`` is kept.

    Args:
      name: the name of the budget in error messages.
      budget: integer scalar.
      chosen: the leaves.
      layouts: the layout of each leaf.
      grouping: the partition of each leaf into groups.
      costs: for each leaf the cost of one of its groups, an integer >= 1.

    Returns:
      The whole tree, with the projected leaves in the places of the chosen ones.

    Raises:
      TypeError: the budget is not an integer.
      ValueError: the budget is not in the range from 0 to the total cost of all groups, that total
        is 2**31 or more, or a concrete leaf holds NaN.
    """
    total = sum(
        cost * math.prod(grouping.shape(layout.shape(leaf)))
        for cost, leaf, layout in zip(costs, chosen.leaves, layouts, strict=True)
    )
    if total > _MOST_COST:
        raise ValueError(
            f"the total cost of all groups must be at most {_MOST_COST}; it is {total}. Give "
            f"costs and {name} in a larger unit, such as thousands"
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
    """Return the kept entries, and whether any entry is NaN."""
    common = math.gcd(*costs)

    def keep_on_shard(
        leaves: Sequence[jax.Array], layouts: Sequence[Layout], budget: jax.Array
    ) -> tuple[list[jax.Array], jax.Array]:
        ranks = key_format([*leaves, jnp.zeros((), jnp.float32)])
        outer, words, nans = [], [], []
        for leaf, layout, cost in zip(leaves, layouts, costs, strict=True):
            groups, names = grouping.layout(layout)
            norms = squared_norms(*grouping.split(leaf, layout), names, ranks)
            outer.append(groups)
            words.append(ranked(divided(norms, cost // common), ranks))
            end = jnp.full((1,), ranks.infinity + 1, ranks.bits)
            nans.append(count_reaching(norms.largest, end))
        any_nan = add_up(nans, outer)[0] > 0
        masks = longest_prefix(list(zip(*words, strict=True)), 1 << 24, outer, costs, budget)
        kept = [
            keep(leaf, grouping.broadcast(mask, leaf), any_nan)
            for leaf, mask in zip(leaves, masks, strict=True)
        ]
        return kept, any_nan

    return on_each_shard(keep_on_shard, leaves, layouts, budget)
