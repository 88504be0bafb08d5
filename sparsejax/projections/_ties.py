"""The cut between entries that tie at a threshold: earlier leaves first, then earlier entries."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.projections._alike import Group
from sparsejax.projections._count import Counts, count_each_equal, count_reaching, table
from sparsejax.projections._keys import KeyFormat
from sparsejax.projections._search import Bracket, Excess, search
from sparsejax.projections._shards import Layout, whole_sizes


def cut_ties(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    groups: Sequence[Group],
    keys: KeyFormat,
    cut: Bracket,
    excess: Excess,
    thresholds: int,
) -> tuple[jax.Array, jax.Array]:
    """Return the leaf that the ties are cut in, and how many entries follow the last one selected.

    All are selected in the leaves before it and none in those after it. In that leaf the earliest
    ties have the most entries behind them: the same search finds the place, with positions from the
    end as keys. They are distinct, so it ends at exactly the wanted number.
    """
    number = len(leaves)
    # If all ties are wanted, or are zeros, all of the last leaf's are selected, too, and the search
    # ends before its first pass.
    clean = (excess(cut.reached) == 0) | (cut.low == 0)
    tied = _tied(leaves, layouts, groups, keys, cut, clean)
    # How many more entries than wanted are selected with all ties up to each leaf.
    up_to = jnp.tril(jnp.broadcast_to(tied, (number, number)))
    above = jnp.broadcast_to(cut.above, (number, len(groups)))
    surplus = excess(jnp.concatenate([above, up_to], axis=1))
    all_selected = np.where(np.arange(number) < number - 1, -1, 0).astype(np.int32)
    surplus = jnp.where(clean, all_selected, surplus)
    # A sum, since XLA repeats anything but a reduction in the kernels of all leaves.
    partial = (surplus < 0).sum(dtype=jnp.int32)
    wanted = tied[partial] - surplus[partial]
    found_at = {n: (g, place) for g, group in enumerate(groups) for place, n in enumerate(group)}
    column, place = jnp.asarray([found_at[n] for n in range(number)], jnp.int32)[partial]

    def count(places: jax.Array) -> jax.Array:
        # Without the barrier XLA would store the positions of all weights, too.
        counts = []
        for group in groups:
            operands = (group.of(leaves), place, cut.low, places, zero)
            held = lax.optimization_barrier(operands)
            counts.append(_count_ties(*held, keys, layouts[group[0]]))
        columns = table(counts, [layouts[group[0]] for group in groups])
        chosen: jax.Array = lax.dynamic_index_in_dim(columns, column, axis=1)
        return chosen

    size = jnp.asarray(whole_sizes(leaves, layouts), jnp.int32)[partial] + wanted * 0
    zero = size * 0
    bracket = Bracket(zero, size + 1, tied[partial][None], zero[None])
    evenly = 64.0 * size.astype(jnp.float32)  # ties are evenly distributed over the positions
    found, _ = search(count, lambda counts: counts[..., 0] - wanted, bracket, evenly, thresholds)
    return partial, found.low


def _tied(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    groups: Sequence[Group],
    keys: KeyFormat,
    cut: Bracket,
    clean: jax.Array,
) -> jax.Array:
    """Return for each leaf the number of entries that tie, or any number if ``clean``.

    Groups of several leaves take one more pass for it, cheaper than those of a search.
    """
    by_group = cut.reached - cut.above
    several = [group for group in groups if len(group) > 1]
    if not several:
        return by_group
    members = [n for group in several for n in group]

    def census(tied: jax.Array) -> jax.Array:
        counts = []
        for group in several:
            held, key, _ = lax.optimization_barrier((group.of(leaves), cut.low, tied))
            counts.append(_count_equal(held, key, keys))
        return table([[c] for each in counts for c in each], [layouts[n] for n in members])[0]

    # A loop of at most one trip, since under vmap a condition would make both sides.
    start = jnp.where(clean, 0, -1) + 0 * by_group[0] + np.zeros(len(members), np.int32)
    counted = lax.while_loop(lambda tied: tied[0] < 0, census, start)
    alone = [g for g, group in enumerate(groups) if len(group) == 1]
    order = np.argsort([*(groups[g][0] for g in alone), *members])
    return jnp.concatenate([by_group[np.array(alone, np.int32)], counted])[order]


@functools.partial(jax.jit, static_argnames=("keys",))
def _count_equal(leaves: Sequence[jax.Array], key: jax.Array, keys: KeyFormat) -> Counts:
    return count_each_equal([keys.keys(leaf) for leaf in leaves], key)


@functools.partial(jax.jit, static_argnames=("keys", "layout"))
def _count_ties(
    leaves: Sequence[jax.Array],
    which: jax.Array,
    key: jax.Array,
    thresholds: jax.Array,
    zero: jax.Array,
    keys: KeyFormat,
    layout: Layout,
) -> Counts:
    """Count the ties of one leaf that have at least so many entries behind them.

    Every leaf is read and only the one of number ``which`` counts, so that there is one reduction
    for all. In a group without the wanted leaf neither that number nor the count means anything.
    """
    chosen = lax.select_n(which, *[keys.keys(leaf) for leaf in leaves])
    positions = layout.positions_from_end(chosen, zero=zero)
    return count_reaching(jnp.where(chosen == key, positions, -1), thresholds)
