"""Exact selection of the largest entries by counting, without a sort, a gather or a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax._dtypes import at_least_float32
from sparsejax.projections._count import add_up, count_reaching, varying_zero
from sparsejax.projections._keys import KeyFormat, key_format
from sparsejax.projections._sample import sampled_thresholds
from sparsejax.projections._search import Bracket, search
from sparsejax.projections._shards import Layout, whole_size

_SAMPLED = 2**21  # from this number of entries on, a sample costs less than it saves


class Selection(NamedTuple):
    """The largest entries: all above a threshold, and the first ones that tie with it."""

    keys: KeyFormat
    threshold: jax.Array
    """The key of the threshold."""
    tie: jax.Array
    """int32 scalar: a tied entry is selected if at least this many entries follow it."""
    any_nan: jax.Array
    """bool scalar: whether any entry is NaN."""

    @property
    def magnitude(self) -> jax.Array:
        """The threshold as a magnitude, in float32 or wider."""
        magnitude = self.keys.magnitude(jnp.minimum(self.threshold, self.keys.infinity))
        return magnitude.astype(at_least_float32(magnitude))

    def masks(self, leaves: Sequence[jax.Array], layouts: Sequence[Layout]) -> list[jax.Array]:
        """Return a boolean mask of the selected entries for each leaf."""
        masks = []
        for leaf, layout, following in zip(
            leaves, layouts, entries_after(leaves, layouts), strict=True
        ):
            key = self.keys.keys(leaf)
            first = layout.positions_from_end(leaf, following) >= self.tie
            masks.append((key > self.threshold) | ((key == self.threshold) & first))
        return masks


def select(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    kappa: jax.Array,
    warm_start: jax.Array | None = None,
) -> Selection:
    """Select the ``kappa`` largest magnitudes of all leaves together.

    Ties at the threshold are broken by position: earlier leaf first, then earlier entry in
    row-major order. If the threshold is zero, all zeros are selected, since keeping a zero or
    setting it to zero is the same.

    Args:
      leaves: arrays, of which at least one is not empty.
      layouts: the layout of each leaf.
      kappa: int32 scalar from 0 to the number of entries.
      warm_start: a magnitude close to the expected threshold; 0 or None for none. It never changes
        the result.

    Returns:
      The selection.
    """
    keys = key_format(leaves)
    total = whole_size(leaves, layouts)
    zero = varying_zero(leaves, layouts)
    key_zero = zero.astype(keys.bits)
    end = keys.infinity + 1  # only NaN has a key this large

    def count(thresholds: Sequence[jax.Array]) -> list[jax.Array]:
        counts = []
        for leaf in leaves:
            # The barrier makes the keys depend on the thresholds: otherwise XLA hoists their
            # computation out of the search loop and stores the keys of all weights.
            leaf, _ = lax.optimization_barrier((leaf, thresholds))
            counts.append(count_reaching(keys.keys(leaf), thresholds))
        return add_up(counts, layouts)

    first = _first_thresholds(leaves, layouts, keys, kappa, total, warm_start)
    bracket = Bracket(key_zero, key_zero + end, zero + total, zero)
    first = [jnp.asarray(threshold, keys.bits) + key_zero for threshold in (*first, end)]
    cut, nans = search(count, kappa + zero, bracket, keys.octave, first)

    clean = (cut.reached == kappa) | (cut.low == 0)
    wanted = jnp.where(clean, cut.reached, kappa) - cut.above
    tie = _tie(leaves, layouts, keys, cut, wanted)
    return Selection(keys, cut.low, tie, nans > 0)


def _tie(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    keys: KeyFormat,
    cut: Bracket,
    wanted: jax.Array,
) -> jax.Array:
    """Return the number of following entries from which on a tied entry is selected.

    Exactly ``wanted`` ties are followed by that many entries or more. The earliest ties have the
    most entries behind them, so this is the same search with positions from the end as keys. They
    are distinct, so the search ends at exactly the wanted number.
    """
    following = entries_after(leaves, layouts)
    total = following[0] + layouts[0].size(leaves[0])

    def count(thresholds: Sequence[jax.Array]) -> list[jax.Array]:
        counts = []
        for leaf, layout, after in zip(leaves, layouts, following, strict=True):
            # The barrier makes positions part of each pass, too, instead of a stored array.
            leaf, after, _ = lax.optimization_barrier((leaf, jnp.asarray(after), thresholds))
            position = layout.positions_from_end(leaf, after)
            tied = jnp.where(keys.keys(leaf) == cut.low, position, -1)
            counts.append(count_reaching(tied, thresholds))
        return add_up(counts, layouts)

    ties = cut.reached - cut.above
    zero = ties * 0
    everywhere = 64.0 * total  # ties are evenly distributed over the positions
    place, _ = search(count, wanted, Bracket(zero, zero + (total + 1), ties, zero), everywhere)
    return place.low


def entries_after(leaves: Sequence[jax.Array], layouts: Sequence[Layout]) -> list[int]:
    """Return for each leaf the total number of entries of the leaves after it."""
    after, following = 0, []
    for leaf, layout in zip(reversed(leaves), reversed(layouts), strict=True):
        following.append(after)
        after += layout.size(leaf)
    return following[::-1]


def _first_thresholds(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    keys: KeyFormat,
    kappa: jax.Array,
    total: int,
    warm_start: jax.Array | None,
) -> list[jax.Array]:
    """Return six thresholds, from a sample or, for few entries, from ``warm_start`` or evenly."""
    zero = varying_zero(leaves, layouts).astype(keys.bits)
    expected = zero if warm_start is None else zero + keys.keys(warm_start.astype(keys.dtype))
    expected = jnp.minimum(expected, keys.infinity)
    if total >= _SAMPLED:
        thresholds = sampled_thresholds(leaves, layouts, keys, kappa, total)
        if warm_start is None:
            return thresholds
        # A sample is more precise than a warm start that is slightly off, so it keeps four of the
        # six thresholds; the other two end the search where the warm start is exact.
        far_below, below, middle, after, above, far_above = thresholds
        middle = jnp.where(warm_start > 0, expected, middle)
        after = jnp.where(warm_start > 0, expected + 1, after)
        return [far_below, below, middle, after, above, far_above]
    evenly = [zero + keys.infinity // 7 * way for way in range(1, 7)]
    if warm_start is None:
        return evenly
    far, near = max(keys.octave >> 6, 1), max(keys.octave >> 11, 1)
    centre = jnp.clip(expected, far, keys.infinity - far)
    around = [centre + offset for offset in (-far, -near, 0, 1, near, far)]
    return [jnp.where(warm_start > 0, *pair) for pair in zip(around, evenly, strict=True)]
