"""Selection of the longest prefix, in an order given by several keys, within a budget."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.projections._count import count_reaching, table, varying_zero
from sparsejax.projections._search import Bracket, search
from sparsejax.projections._selection import entries_after
from sparsejax.projections._shards import Layout, whole_size

_THRESHOLDS = 7  # a pass that counts more than eight is slower on XLA:CPU
_SMOOTH = 2.0**12  # the leading digits of numbers of all sizes are not evenly distributed


def longest_prefix(
    words: Sequence[Sequence[jax.Array]],
    highest: int,
    layouts: Sequence[Layout],
    costs: Sequence[int],
    budget: jax.Array,
) -> list[jax.Array]:
    """Select the entries in the longest prefix of an order that costs at most ``budget``.

    Entries are ordered by their first words, largest first, then by their second words, and so on,
    and last by position. The search over one word passes the entries that tie where the budget ends
    on to the search over the next word; positions are distinct, so that search ends without ties.
    Nothing is sorted.

    Args:
      words: for each word and each leaf an int32 array of values in ``[0, highest]``.
      highest: an integer less than 2**31 - 1.
      layouts: the layout of each leaf.
      costs: for each leaf the cost of one of its entries, an integer >= 1; all entries together
        cost less than 2**31.
      budget: int32 scalar >= 0.

    Returns:
      A boolean array for each leaf, True for the selected entries.
    """
    zero = varying_zero(words[0], layouts)
    entries = whole_size(words[0], layouts)
    positions = [
        layout.positions_from_end(leaf, after)
        for leaf, layout, after in zip(
            words[0], layouts, entries_after(words[0], layouts), strict=True
        )
    ]
    total = zero + np.array(
        [
            cost * layout.size(leaf)
            for leaf, layout, cost in zip(words[0], layouts, costs, strict=True)
        ],
        np.int32,
    )
    nothing = total * 0
    left = jnp.minimum(budget + zero, total.sum(dtype=jnp.int32))
    kept = [jnp.zeros(leaf.shape, bool) for leaf in words[0]]
    tied = [jnp.ones(leaf.shape, bool) for leaf in words[0]]
    for word, end, smooth in (
        *((word, highest + 1, _SMOOTH) for word in words),
        (positions, entries, 64.0 * entries),
    ):
        keys = [jnp.where(tie, key, -1) for tie, key in zip(tied, word, strict=True)]

        def count(thresholds: jax.Array, keys: list[jax.Array] = keys) -> jax.Array:
            counts = [count_reaching(key, thresholds) for key in keys]
            return table(counts, layouts) * np.array(costs, np.int32)

        def excess(counts: jax.Array, left: jax.Array = left) -> jax.Array:
            return counts.sum(-1, dtype=jnp.int32) - left

        bracket = Bracket(zero, zero + end, total, nothing)
        cut, _ = search(count, excess, bracket, smooth, _THRESHOLDS)
        reached, above = (x.sum(dtype=jnp.int32) for x in (cut.reached, cut.above))
        spent = reached == left  # the budget is spent exactly; no ties remain
        least = jnp.where(spent, cut.low, cut.high)
        kept = [k | (key >= least) for k, key in zip(kept, keys, strict=True)]
        tied = [(key == cut.low) & ~spent for key in keys]
        total = jnp.where(spent, 0, cut.reached - cut.above)
        left = jnp.where(spent, 0, left - above)
    return kept
