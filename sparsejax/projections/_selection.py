"""Exact selection of the largest entries by counting: no sort, no gather, no copy of the tree."""

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

_SAMPLED = 2**21  # entries from which on a sample costs less than the passes it saves


class Selection(NamedTuple):
    """The largest entries: all above ``threshold``, and of those at it the first ones."""

    keys: KeyFormat
    threshold: jax.Array
    """A key."""
    tie: jax.Array
    """int32: entries at the threshold count if this many or more entries follow them."""
    any_nan: jax.Array

    @property
    def magnitude(self) -> jax.Array:
        """The threshold as a magnitude, in float32 or wider."""
        magnitude = self.keys.magnitude(jnp.minimum(self.threshold, self.keys.infinity))
        return magnitude.astype(at_least_float32(magnitude))

    def masks(self, leaves: Sequence[jax.Array], layouts: Sequence[Layout]) -> list[jax.Array]:
        """For each leaf which entries were selected."""
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
    guess: jax.Array | None = None,
) -> Selection:
    """The ``kappa`` largest magnitudes of all leaves together.

    Of equal magnitudes at the threshold the earlier ones are chosen: earlier leaf, then earlier
    entry in row-major order. Zeros at the threshold are all chosen: no one could tell.

    Args:
      leaves: at least one of them not empty.
      layouts: of each leaf.
      kappa: int32 scalar from 0 to the number of entries.
      guess: a magnitude near which the threshold is expected, or 0 for none. It never changes the
        result.
    """
    keys = key_format(leaves)
    total = whole_size(leaves, layouts)
    zero = varying_zero(leaves, layouts)
    key_zero = zero.astype(keys.bits)
    end = keys.infinity + 1  # what reaches it is NaN

    def count(thresholds):
        counts = []
        for leaf in leaves:
            # Tied to the thresholds, or XLA forms the keys of all weights once, before the loop.
            leaf, _ = lax.optimization_barrier((leaf, thresholds))
            counts.append(count_reaching(keys.keys(leaf), thresholds))
        return add_up(counts, layouts)

    first = _first_thresholds(leaves, layouts, keys, kappa, total, guess)
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
    """How many entries must follow an entry at the threshold so that ``wanted`` of those count.

    The first ties have the most entries behind them, so this is the same search again with
    positions for keys; they all differ, so it ends at just the number wanted.
    """
    following = entries_after(leaves, layouts)
    total = following[0] + layouts[0].size(leaves[0])

    def count(thresholds):
        counts = []
        for leaf, layout, after in zip(leaves, layouts, following, strict=True):
            # The positions too are to be formed in each pass, not once as an array.
            leaf, after, _ = lax.optimization_barrier((leaf, jnp.asarray(after), thresholds))
            position = layout.positions_from_end(leaf, after)
            tied = jnp.where(keys.keys(leaf) == cut.low, position, -1)
            counts.append(count_reaching(tied, thresholds))
        return add_up(counts, layouts)

    ties = cut.reached - cut.above
    zero = ties * 0
    everywhere = 64.0 * total  # ties lie anywhere, without a slope
    place, _ = search(count, wanted, Bracket(zero, zero + (total + 1), ties, zero), everywhere)
    return place.low


def entries_after(leaves: Sequence[jax.Array], layouts: Sequence[Layout]) -> list[int]:
    """For each leaf how many entries the leaves after it have."""
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
    guess: jax.Array | None,
) -> list[jax.Array]:
    """Six thresholds: from a sample, or among few entries around the guess or evenly."""
    zero = varying_zero(leaves, layouts).astype(keys.bits)
    guessed = zero if guess is None else zero + keys.keys(guess.astype(keys.dtype))
    guessed = jnp.minimum(guessed, keys.infinity)
    if total >= _SAMPLED:
        thresholds = sampled_thresholds(leaves, layouts, keys, kappa, total)
        if guess is None:
            return thresholds
        # A sample tells more than a guess that is a little off; one that is still right settles it.
        far_below, below, middle, after, above, far_above = thresholds
        middle = jnp.where(guess > 0, guessed, middle)
        after = jnp.where(guess > 0, guessed + 1, after)
        return [far_below, below, middle, after, above, far_above]
    evenly = [zero + keys.infinity // 7 * way for way in range(1, 7)]
    if guess is None:
        return evenly
    far, near = max(keys.octave >> 6, 1), max(keys.octave >> 11, 1)
    centre = jnp.clip(guessed, far, keys.infinity - far)
    around = [centre + offset for offset in (-far, -near, 0, 1, near, far)]
    return [jnp.where(guess > 0, *pair) for pair in zip(around, evenly, strict=True)]
